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

const bootPath = "boot/"

// serveTFTP hands out iPXE, lock-step: strict boot ROMs agreed to nothing
// else.
func (s *Server) serveTFTP(ctx context.Context, conn *net.UDPConn) error {
	g := &gate{UDPConn: conn, server: s}
	srv := tftp.NewServer(func(name string, to io.ReaderFrom) error {
		defer g.active.Add(-1)
		data, err := s.tftpFile(name)
		if err != nil {
			return err
		}
		if _, err = to.ReadFrom(bytes.NewReader(data)); err != nil {
			// A client that only wanted the size ends with an ERROR packet;
			// it is not a failure.
			s.Log.Debug("TFTP ended early", "file", name, "err", err)
		}
		return nil
	}, nil)
	srv.SetTimeout(time.Second)
	srv.SetRetries(8)
	// The library sees the MTU only on a bare UDPConn; without it, this is
	// what fits Ethernet and what EDK2 asks for.
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
// To everybody else the port is silent: an ERROR packet would tell a stranger
// that there is a server. With a live boot an ERROR is due: iPXE looks for
// autoexec.ipxe beside itself, and waits 20 seconds for an answer.
type gate struct {
	*net.UDPConn
	server *Server
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
		if _, err := g.server.tftpFile(name); err != nil && !errors.Is(err, errNoFile) {
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

var (
	errNotServed = errors.New("not served")
	errNoFile    = errors.New("no such file")
)

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
