package api

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
)

// FirmwareRequest is the body of POST /v1/firmware. Paths are absolute, on the server.
type FirmwareRequest struct {
	Name string   `json:"name"`
	From []string `json:"from"` // sources, see images.Catalog.AddFirmware
}

// FirmwareProgress is a line of the answer to POST /v1/firmware: progress, and in the last line the firmware or the
// error.
type FirmwareProgress struct {
	Done     int64     `json:"done"`
	Total    int64     `json:"total"` // bytes of the current package
	Firmware *Firmware `json:"firmware,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// Firmware is a tree of board firmware, and the boards for which it is complete.
type Firmware struct {
	images.Firmware
	Netboot []images.Fit `json:"netboot"` // what it lacks to netboot each board
	Disk    []images.Fit `json:"disk"`    // what it lacks to start each board from a disk
}

// firmware returns the API's form of a tree.
func firmware(f images.Firmware) Firmware {
	return Firmware{f, array(f.Fitness(boards.TFTP)), array(f.Fitness(boards.FAT))}
}

func (s *Server) listFirmware(c echo.Context) error {
	all, err := s.Images.Firmwares()
	if err != nil {
		return err
	}
	out := make([]Firmware, len(all))
	for i, f := range all {
		out[i] = firmware(f)
	}
	return c.JSON(http.StatusOK, out)
}

// addFirmware streams FirmwareProgress. The last line has the firmware or the error.
func (s *Server) addFirmware(c echo.Context) error {
	var r FirmwareRequest
	if err := bind(c, &r); err != nil {
		return err
	}

	enc := json.NewEncoder(c.Response())
	var told time.Time
	c.Response().Header().Set(echo.HeaderContentType, "application/x-ndjson")
	f, notes, err := s.Images.AddFirmware(c.Request().Context(), r.Name, r.From, func(done, total int64) {
		if now := time.Now(); now.Sub(told) > 200*time.Millisecond {
			told = now
			enc.Encode(FirmwareProgress{Done: done, Total: total}) // if the client has left, the last write fails
			c.Response().Flush()
		}
	})
	if err != nil {
		return enc.Encode(FirmwareProgress{Error: answerText(err)})
	}

	s.Log.Info("firmware added", "name", f.Name, "files", len(f.Files), "bytes", f.Size())
	of := firmware(f)
	return enc.Encode(FirmwareProgress{Firmware: &of, Warnings: notes})
}

func (s *Server) verifyFirmware(c echo.Context) error {
	if err := s.Images.VerifyFirmware(c.Request().Context(), c.Param("name")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// firmwareLicences sends the texts of a tree's licences, one after the other.
func (s *Server) firmwareLicences(c echo.Context) error {
	f, err := s.Images.Firmware(c.Param("name"))
	if err != nil {
		return err
	}

	c.Response().Header().Set(echo.HeaderContentType, echo.MIMETextPlainCharsetUTF8)
	for _, name := range slices.Sorted(maps.Keys(f.Licences)) {
		in, err := s.Images.OpenFile(f.Licences[name])
		if err != nil {
			return err
		}

		fmt.Fprintf(c.Response(), "==> %s\n\n", name)
		_, err = io.Copy(c.Response(), in)
		in.Close()
		if err != nil {
			return err
		}

		fmt.Fprintln(c.Response())
	}

	return nil
}

func (s *Server) removeFirmware(c echo.Context) error {
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}
	var users []string
	for _, h := range all {
		if needsFirmware(h, c.Param("name")) {
			users = append(users, h.Name)
		}
	}

	if err := s.Images.RemoveFirmware(c.Param("name"), users); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// needsFirmware reports whether the host's board boots from this firmware tree.
func needsFirmware(h hosts.Host, name string) bool {
	b, err := boards.Parse(h.Board)
	return err == nil && b.Firmware == name
}
