package pxe

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"provision/internal/tftp"
)

// serveTFTP serves boot files over TFTP on one link (files.go says which).
func (s *Server) serveTFTP(ctx context.Context, l *servedLink) error {
	srv := &tftp.Server{
		MTU:         func() int { return int(l.mtu.Load()) },
		MaxBlksize:  s.TFTPBlksize,
		Transfers:   s.transfers / max(1, len(s.Interfaces)),
		Open:        func(name string, from netip.AddrPort) (tftp.File, error) { return s.openTFTP(l, name, from) },
		Resolve:     func(ctx context.Context, from netip.Addr) { l.resolve(ctx, from) },
		Group:       bootToken,
		DisplayName: untold,
		Observe:     func(e tftp.Event) { s.traceTFTP(l, e) },
		Completed:   func(t tftp.Completed) { s.traceBlocks(l.neighbour(t.Client.Addr()), t) },
		Dropped:     func(client netip.Addr) { s.drops.add("TFTP requests", client.String()) },
		Log:         s.Log,
	}
	return srv.Run(ctx, l.sock.tftp)
}

// openTFTP opens a file, and keeps the name of one that does not exist. The client learns no more of any other error
// than that there is no file for it.
func (s *Server) openTFTP(l *servedLink, name string, from netip.AddrPort) (tftp.File, error) {
	f, err := s.open(l, name, from)
	switch {
	case errors.Is(err, tftp.ErrNotFound):
		s.traceMissing(l.neighbour(from.Addr()), name)
	case err != nil && !errors.Is(err, tftp.ErrNotServed):
		s.Log.Warn("TFTP", "client", from, "file", untold(name), "err", err)
		err = tftp.ErrNotFound
	}
	return f, err
}

// bootToken is the token in the name of a boot's file, or "". Whoever knows one token can ask with it from many
// addresses. "hold" is not a token: all unknown machines share it.
func bootToken(name string) string {
	rest, ok := strings.CutPrefix(name, bootPath)
	token, _, _ := strings.Cut(rest, "/")
	if !ok || token == "hold" {
		return ""
	}
	return token
}
