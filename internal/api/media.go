package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"provision/images"
	"provision/images/media"
	"provision/internal/boards"
)

// MediaRequest is the body of POST /v1/media.
type MediaRequest struct {
	Host    string   `json:"host,omitempty"`  // empty: any machine
	Arch    string   `json:"arch,omitempty"`  // may be left out if there is a host or board
	Servers []string `json:"servers"`         // URLs of this server, which the medium asks; empty: all of its addresses
	ISO     bool     `json:"iso,omitempty"`   // a CD image; false: a disk image
	Board   string   `json:"board,omitempty"` // empty: that of the host, or any that boots by UEFI
}

// media makes a boot medium and sends it.
func (s *Server) media(c echo.Context) error {
	var r MediaRequest
	if err := bind(c, &r); err != nil {
		return err
	}

	m, err := s.medium(r)
	if err != nil {
		return err
	}

	f, err := os.CreateTemp(s.Temp, "medium-")
	if err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}
	defer f.Close()

	if err := os.Remove(f.Name()); err != nil { // the file exists as long as it is open
		return fmt.Errorf("make a boot medium: %w", err)
	}

	write := m.Disk
	if r.ISO {
		write = m.ISO
	}
	if err := write(f); err != nil {
		return err
	}

	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}

	c.Response().Header().Set(echo.HeaderContentLength, strconv.FormatInt(size, 10))
	return c.Stream(http.StatusOK, echo.MIMEOctetStream, f)
}

// medium returns the medium that is requested.
func (s *Server) medium(r MediaRequest) (m media.BootMedium, err error) {
	to := media.Purpose{Host: r.Host}
	if to.Servers, err = s.askedAt(r.Servers); err != nil {
		return m, err
	}

	if r.Host != "" {
		h, err := s.named(r.Host)
		if err != nil {
			return m, err
		}

		to.MACs = h.MACs
		if r.Board == "" {
			r.Board = h.Board
		}
		switch {
		case r.Arch == "":
			r.Arch = h.Arch
		case !sameArch(r.Arch, h.Arch):
			return m, fmt.Errorf("%s is built for %s, and the medium is to be for %s: leave --arch out", h.Name, h.Arch, r.Arch)
		}
	}

	if r.Arch == "" && r.Board != "" {
		board, err := boards.Parse(r.Board)
		if err != nil {
			return m, err
		}
		r.Arch = board.Arch
	}

	if r.Arch == "" {
		return m, errors.New("the medium's architecture is missing: x86_64 or aarch64")
	}
	arch, err := images.ParseArch(r.Arch)
	if err != nil {
		return m, err
	}

	if r.Board != "" {
		if m, ok, err := s.boardMedium(r, arch, to); ok || err != nil {
			return m, err
		}
	}

	program, err := media.Program(s.Programs, arch)
	if err != nil {
		return m, err
	}

	return media.ForUEFI(arch, program, media.Script(to)), nil
}

// boardMedium returns the medium for a board that does not boot by UEFI; ok is false if the board does.
func (s *Server) boardMedium(
	r MediaRequest, arch images.Arch, to media.Purpose,
) (m media.BootMedium, ok bool, err error) {
	board, err := boards.Parse(r.Board)
	if err != nil {
		return m, false, err
	}
	switch {
	case board.Arch != string(arch):
		return m, false, fmt.Errorf("board %s is %s, and the medium is to be for %s", board.Name, board.Arch, arch)
	case board.Firmware == "":
		return m, false, nil
	case r.ISO:
		return m, false, fmt.Errorf("board %s does not start from a CD: make a disk image, .img", board.Name)
	}

	m, err = media.ForBoard(s.Images, board, to)
	return m, true, err
}

// sameArch reports whether two names mean the same architecture.
func sameArch(a, b string) bool {
	x, err := images.ParseArch(a)
	y, err2 := images.ParseArch(b)
	return err == nil && err2 == nil && x == y
}

// askedAt returns the URLs that a medium asks: those given, or those of all addresses that are served.
func (s *Server) askedAt(given []string) (urls []string, err error) {
	if len(given) == 0 {
		for _, i := range s.serving().Interfaces {
			host := i.Address.String()
			if s.Serving.HTTP != 80 {
				host = netip.AddrPortFrom(i.Address, uint16(s.Serving.HTTP)).String()
			}
			urls = append(urls, "http://"+host)
		}
		return urls, nil
	}

	for _, text := range given {
		u, err := url.Parse(text)
		if err == nil && u.Host == "" { // 10.0.0.1 or 10.0.0.1:8080
			u, err = url.Parse("http://" + text)
		}

		// The URL is inserted into a script, so odd characters are not allowed.
		odd := func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(".:-[]", r)
		}
		if err != nil || u.Scheme != "http" || u.Hostname() == "" || strings.ContainsFunc(u.Host, odd) ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("--server %s: write this server's URL as machines reach it, such as "+
				"http://10.0.0.1:8080", text)
		}

		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.To4() == nil {
			return nil, fmt.Errorf("--server %s: machines boot over IPv4", text)
		}
		urls = append(urls, "http://"+u.Host)
	}

	return urls, nil
}
