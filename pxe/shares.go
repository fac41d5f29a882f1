package pxe

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"provision/internal/tftp"
)

// Nobody may take what all need: places for transfers, connections, the file descriptors of the process. A TFTP
// transfer has two descriptors, its socket and its file, and so has an HTTP connection. A quarter of all descriptors is
// for TFTP, a half for HTTP, and the rest stays for the operator's API, the store and the builds.

const (
	// maxConnections bounds the HTTP connections of all machines, where there are descriptors for so many.
	maxConnections = 8192

	// perClient bounds the HTTP connections of one address. nix fetches by 25 at once.
	perClient = 64
)

// shares are how many TFTP transfers and HTTP connections there may be with so many file descriptors.
func shares(descriptors uint64) (transfers, connections int) {
	return int(min(descriptors/8, tftp.MaxTransfers)), int(min(descriptors/4, maxConnections))
}

// share sets the bounds for this process.
func (s *Server) share() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	s.transfers, s.connections.most = shares(limit.Cur)
	s.connections.refused = func(from netip.Addr) { s.drops.add("HTTP connections", from.String()) }
	if s.transfers < tftp.MaxTransfers {
		s.Log.Warn("the limit of open files is low; raise it (LimitNOFILE) if many machines boot at once",
			"limit", limit.Cur, "tftp transfers", s.transfers, "http connections", s.connections.most)
	}
	return nil
}

// connectionShares are those of all HTTP clients.
type connectionShares struct {
	most    int
	refused func(netip.Addr) // is told of each connection too many

	mu  sync.Mutex
	all int
	of  map[netip.Addr]int
}

// changed is http.Server.ConnState. A connection too many is closed at once, and then told of like any other.
func (c *connectionShares) changed(conn net.Conn, state http.ConnState) {
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	c.mu.Lock()
	defer c.mu.Unlock()

	switch state {
	case http.StateNew:
		if c.of == nil {
			c.of = make(map[netip.Addr]int)
		}
		c.all++
		c.of[from.Addr()]++
		if c.all > c.most || c.of[from.Addr()] > perClient {
			c.refused(from.Addr()) // before the client can see it
			conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		c.all--
		if c.of[from.Addr()]--; c.of[from.Addr()] == 0 {
			delete(c.of, from.Addr())
		}
	}
}
