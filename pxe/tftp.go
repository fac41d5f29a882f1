package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pin/tftp/v3"
)

// serveTFTP hands out iPXE, lock-step: strict boot ROMs agreed to nothing
// else.
func (s *Server) serveTFTP(ctx context.Context, l *link) error {
	g := &gate{UDPConn: l.sock.tftp, server: s, link: l}
	srv := tftp.NewServer(func(name string, to io.ReaderFrom) error {
		defer g.active.Add(-1)
		remote := to.(tftp.OutgoingTransfer).RemoteAddr()
		f, err := s.open(l, name, remote.AddrPort())
		if err != nil {
			return err
		}
		_, err = to.ReadFrom(io.NewSectionReader(f, 0, f.size))
		f.done(err == nil)
		return nil
	}, nil)
	srv.SetTimeout(time.Second)
	srv.SetRetries(8)
	srv.SetBlockSizeNegotiation(false)
	srv.SetBlockSize(1468)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(done); srv.Shutdown() })
	err := srv.Serve(g)
	if !stop() {
		<-done // Shutdown waits for the transfers
	}
	if ctx.Err() != nil || closed(err) {
		return nil
	}
	return fmt.Errorf("serve TFTP: %w", err)
}

// gate lets only read requests through that name the folder of a live boot.
type gate struct {
	*net.UDPConn
	server *Server
	link   *link
	active atomic.Int32 // transfers under way
}

// MaxTransfers bounds the TFTP transfers at one time. A token is seen by the
// whole LAN, and each request with it, from whatever source address, would
// keep a socket busy for some seconds.
const MaxTransfers = 512

// ReadFrom implements net.PacketConn.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := g.UDPConn.ReadFrom(p)
		if err != nil {
			return n, from, err
		}
		name, ok := readRequest(p[:n])
		if !ok {
			continue
		}
		if _, err := g.server.open(g.link, name, from.(*net.UDPAddr).AddrPort()); err != nil && !errors.Is(err, errNoFile) {
			g.server.Log.Debug("TFTP request left unanswered", "from", from, "file", printable(name), "err", err)
			continue
		}
		if g.active.Add(1) > MaxTransfers {
			g.active.Add(-1)
			continue // it asks again
		}
		return n, from, nil
	}
}

// readRequest returns the file name of a read request in octet mode (RFC 1350
// section 5).
func readRequest(p []byte) (name string, ok bool) {
	if len(p) < 4 || p[0] != 0 || p[1] != 1 {
		return "", false
	}
	fields := bytes.SplitN(p[2:], []byte{0}, 3)
	if len(fields) < 3 || !strings.EqualFold(string(fields[1]), "octet") {
		return "", false
	}
	return string(fields[0]), true
}
