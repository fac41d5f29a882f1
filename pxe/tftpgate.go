package pxe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
)

// gate stands between port 69 and the library: it reads the requests, lets
// through which may be answered, makes them plain, and gives the library one
// at a time while there are places. The transfers have sockets of their own,
// which only the library sees.
type gate struct {
	*net.UDPConn
	*tftpServer
	ctx      context.Context // of Run; the library knows none
	shutdown func()          // the library's: ends Serve, waits for transfers
	places   chan struct{}   // holds one for each transfer under way
	waiting  chan *transfer  // let through, without a place yet
	windows  sync.WaitGroup  // transfers that are not the library's
	given    *transfer       // the last that the library was given; used by its Serve only

	mu    sync.Mutex
	known map[conversation]*transfer // waiting, under way, or ended whole just now
	held  map[holder]int             // how many wait or are under way
}

// conversation tells transfers apart: a second request in one is a duplicate.
type conversation struct {
	client netip.AddrPort
	name   string
}

// receive reads port 69 until it is closed.
func (g *gate) receive() error {
	p := make([]byte, 1500)
	for {
		n, from, err := g.ReadFromUDPAddrPort(p)
		if err != nil {
			return err
		}
		g.arrived(bytes.Clone(p[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// arrived decides about one packet: silence, an ERROR, or a transfer.
func (g *gate) arrived(p []byte, client netip.AddrPort) {
	r, ok := parseTFTP(p)
	if !ok {
		return
	}
	if r.blksize != 0 {
		r.blksize = min(r.blksize, g.maxBlock())
	}
	t := &transfer{tftpRequest: r, client: client, ctx: g.ctx, asked: time.Now()}
	if g.duplicate(t, p) {
		return
	}
	if !g.hold(t) { // it asks again
		g.forget(t)
		g.Log.Debug("TFTP request left unanswered: there are enough like it", "from", client, "file", untold(r.name))
		return
	}
	var err error
	t.file, err = g.Open(r.name, client)
	if errors.Is(err, errNotServed) {
		g.forget(t)
		g.Log.Debug("TFTP request left unanswered", "from", client, "file", untold(r.name), "err", err)
		return
	}
	g.seen(client, false, p, "")
	if err == nil && (r.write || !r.octet) {
		t.file.close(false)
		if err = errOctetOnly; r.write {
			err = errReadOnly
		}
	}
	if err != nil {
		g.forget(t)
		g.refuse(client, err)
		return
	}
	select {
	case g.waiting <- t:
	default: // it asks again
		g.forget(t)
		t.file.close(false)
	}
}

// maxBlock is what fits the link beside the IPv4, UDP and TFTP headers.
func (g *gate) maxBlock() int {
	if g.MTU == 0 {
		return 1468
	}
	return min(max(g.MTU-32, 512), 65464)
}

// duplicate reports whether a transfer is on already, and else notes it.
func (g *gate) duplicate(t *transfer, p []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.known[t.conversation()]
	if old == nil {
		g.known[t.conversation()] = t
		return false
	}
	old.asked = t.asked
	if !old.begun.IsZero() {
		old.again = p
	}
	return true
}

// hold counts a transfer against the shares of its holders, unless one of them has its share.
func (g *gate) hold(t *transfer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range t.holders() {
		if g.held[h] >= perHolder {
			return false
		}
	}
	for _, h := range t.holders() {
		g.held[h]++
	}
	t.holds = true
	return true
}

// release is called with g.mu held, once or more often.
func (g *gate) release(t *transfer) {
	if !t.holds {
		return
	}
	t.holds = false
	for _, h := range t.holders() {
		if g.held[h]--; g.held[h] == 0 {
			delete(g.held, h)
		}
	}
}

func (g *gate) forget(t *transfer) {
	g.mu.Lock()
	delete(g.known, t.conversation())
	g.release(t)
	g.mu.Unlock()
}

// refuse sends an ERROR packet, like any first answer from a new port (RFC
// 1350 section 4).
func (g *gate) refuse(client netip.AddrPort, err error) {
	code := byte(codeOther)
	switch {
	case errors.Is(err, errNoFile):
		code = codeNotFound
	case errors.Is(err, errReadOnly):
		code = codeAccess
	}
	p := tftpError(code, err.Error())
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(client))
	if err == nil {
		defer conn.Close()
		_, err = conn.Write(p)
	}
	if err != nil {
		g.Log.Debug("TFTP refusal not sent", "to", client, "err", err)
		return
	}
	g.seen(client, true, p, "")
}

func (g *gate) seen(client netip.AddrPort, sent bool, packet []byte, text string) {
	if g.Seen != nil {
		g.Seen(client, sent, packet, text)
	}
}

// ReadFrom implements net.PacketConn for the library: the next request that
// has a place.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	if g.given = g.next(); g.given == nil {
		// Called from here, it waits for transfers while none can be begun.
		g.shutdown()
		return 0, nil, net.ErrClosed
	}
	return copy(p, g.given.packet()), net.UDPAddrFromAddrPort(g.given.client), nil
}

// next waits for a place and for a request to take it, of those that the library
// can serve; nil is the end.
func (g *gate) next() *transfer {
	for {
		select {
		case g.places <- struct{}{}:
		case <-g.ctx.Done():
			return nil
		}
		t := g.first()
		if t == nil {
			<-g.places
			return nil
		}
		if t.window == 0 {
			return t
		}
		g.windows.Go(func() { g.windowed(t) })
	}
}

// first waits for a request whose client still does; nil is the end.
func (g *gate) first() *transfer {
	for {
		select {
		case t := <-g.waiting:
			if g.begin(t) {
				return t
			}
			t.file.close(false)
			g.seen(t.client, true, nil, "no place for "+untold(t.name)+": the client gave up")
		case <-g.ctx.Done():
			return nil
		}
	}
}

// begin marks a transfer as begun, unless its client has given up waiting.
func (g *gate) begin(t *transfer) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(t.asked) > tftpPatience {
		delete(g.known, t.conversation())
		g.release(t)
		return false
	}
	t.begun = time.Now()
	return true
}

// sendAway ends the requests that found no place before the server stopped.
func (g *gate) sendAway() {
	for {
		select {
		case t := <-g.waiting:
			t.file.close(false)
		default:
			return
		}
	}
}

// transfer is the library's handler: it sends one file.
func (g *gate) transfer(name string, to io.ReaderFrom) error {
	out := to.(tftp.OutgoingTransfer)
	client := out.RemoteAddr()
	g.mu.Lock()
	t := g.known[conversation{client.AddrPort(), name}]
	g.mu.Unlock()
	out.SetSize(t.file.size)
	g.end(t, t.send(to))
	return nil // the library has told the client, where it is to be told
}

// backoff waits no longer than the second that the library has waited for an
// answer before it asks how long to wait before it sends again.
func (g *gate) backoff(int) time.Duration {
	if g.ctx.Err() != nil {
		panic(lost{errStopping})
	}
	return 0
}

// OnSuccess implements tftp.Hook.
func (g *gate) OnSuccess(tftp.TransferStats) {}

// OnFailure implements tftp.Hook. It comes before the library tells the client
// of the error. Without an address, the library had no socket for the transfer
// that it was given.
func (g *gate) OnFailure(stats tftp.TransferStats, err error) {
	switch {
	case stats.RemoteAddr != nil:
		if err != errStopping && err != errUnreadable {
			panic(lost{err})
		}
	case g.given != nil:
		g.Log.Error("begin a TFTP transfer", "to", g.given.client, "err", err)
		g.end(g.given, err)
	}
}

// end gives back what a transfer had.
func (g *gate) end(t *transfer, err error) {
	t.file.close(err == nil)
	if t.broken != nil {
		g.Log.Error("read a file for TFTP", "file", untold(t.name), "at", t.sent, "err", t.broken)
	}
	text := t.outcome(err)
	g.Log.Debug("TFTP", "client", t.client, "outcome", text)
	g.seen(t.client, true, nil, text)
	if err == nil && g.Took != nil {
		g.Took(t.client, t.sent/t.block()+1, t.block(), time.Since(t.begun))
	}
	<-g.places
	if err == nil {
		g.mu.Lock()
		g.release(t)
		g.mu.Unlock()
		time.AfterFunc(tftpLinger, func() { g.forget(t) })
		return
	}
	g.forget(t)
	// A request that was repeated in a transfer that came to nothing is a new
	// one: its client had asked for the size, or was switched off and on.
	if t.again != nil {
		g.arrived(t.again, t.client)
	}
}
