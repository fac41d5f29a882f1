package pxe

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
)

const bootPath = "boot/"

// serveTFTP hands out iPXE.
func (s *Server) serveTFTP(ctx context.Context, conn *net.UDPConn) error {
	t := &tftpServer{Open: s.openTFTP, Log: s.Log}
	if ifi, err := net.InterfaceByName(s.Interface); err == nil {
		t.MTU = ifi.MTU
	}
	return t.Run(ctx, conn)
}

func (s *Server) openTFTP(name string, _ netip.AddrPort) (tftpFile, error) {
	data, err := s.tftpFile(name)
	if err != nil {
		return tftpFile{}, err
	}
	return tftpFile{content: io.NopCloser(bytes.NewReader(data)), size: int64(len(data))}, nil
}

// tftpFile looks a file up: boot/TOKEN/PROGRAM of a boot that was offered and
// not used, or the program for holding strangers. Names are compared, never
// joined to a path.
func (s *Server) tftpFile(name string) ([]byte, error) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "/"), bootPath)
	if !ok {
		return nil, errNotServed
	}
	token, program, ok := strings.Cut(rest, "/")
	if !ok || !s.tokenLives(token) {
		return nil, errNotServed
	}
	if loader(program) != efiX64 {
		return nil, errNoFile
	}
	return s.program, nil
}

func (s *Server) tokenLives(token string) bool {
	if token == string(hold) {
		return s.Hold
	}
	h, err := s.Hosts.ByToken(token)
	return err == nil && h.Boot.Token == token && s.fresh(h)
}
