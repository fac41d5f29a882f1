package api

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
)

// SlowLoad says that a host's machine will wait long because it loads a file over TFTP.
type SlowLoad struct {
	Host string `json:"host"`
	What string `json:"what"` // which file, how long it takes, and how long it would take over HTTP; for people
}

// slowLoads answers with those of all hosts whose machines may netboot.
func (s *Server) slowLoads(c echo.Context) error {
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}

	programs, err := images.Programs(s.Programs)
	if err != nil {
		return err
	}

	slow := []SlowLoad{}
	traces := s.Traces.List()
	for _, h := range all {
		if h.State == hosts.StateInstalled || h.State == hosts.StateRebooting {
			continue
		}
		for _, what := range s.slow(h, traces, programs) {
			slow = append(slow, SlowLoad{h.Name, what})
		}
	}

	return c.JSON(http.StatusOK, slow)
}

// slow says which files a host's machine loads slowly over TFTP, given what is known of it and how it asked.
func (s *Server) slow(h hosts.Host, traces []hosts.Trace, programs map[string][]byte) (findings []string) {
	img, err := s.Images.Get(h.Image)
	if err != nil {
		return nil // doctor and enroll report it
	}

	var tr hosts.Trace
	if i := slices.IndexFunc(traces, func(tr hosts.Trace) bool { return slices.Contains(h.MACs, tr.MAC) }); i >= 0 {
		tr = traces[i]
	}
	board, err := boards.Parse(h.Board)
	ownFirmware := err == nil && board.Firmware != ""
	var loads []images.TFTPLoad
	switch who := cmp.Or(tr.Client, h.Boot.Client); {
	case ownFirmware, strings.HasPrefix(who, "Raspberry Pi"), strings.Contains(who, "U-Boot"):
		loads = s.Images.BoardLoads(img)
	case strings.HasSuffix(who, " PXE"): // firmware that does not support HTTP boot, or has it switched off
		loads = []images.TFTPLoad{{What: "iPXE", Size: programSize(who, programs)}}
	}

	for _, l := range loads {
		if w := l.Slow(cmp.Or(tr.Blksize, 1468), tr.Block); w != "" {
			findings = append(findings, w)
		}
	}

	return findings
}

// programSize returns the size in bytes of the program that a PXE client loads.
func programSize(who string, programs map[string][]byte) int64 {
	name := images.ProgramNative
	switch {
	case strings.Contains(who, "BIOS"):
		name = images.ProgramUNDI
	case strings.Contains(who, "arm64"):
		name = images.ProgramSNPArm64
	}
	return int64(len(programs[name]))
}
