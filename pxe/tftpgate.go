package pxe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// gate stands before the transfers: it reads the requests from port 69, lets through which may be answered, and begins
// one after the other while there are places. The transfers have sockets of their own.
type gate struct {
	*net.UDPConn
	*tftpServer
	ctx       context.Context // of Run
	places    chan struct{}   // holds one for each transfer under way
	waiting   chan *transfer  // let through, without a place yet
	asking    chan struct{}   // holds one for each request whose client's MAC is asked for
	transfers sync.WaitGroup

	mu    sync.Mutex
	known map[conversation]*transfer // waiting, under way, or ended whole just now
	held  map[holder]int             // how many wait or are under way
	small map[netip.Addr]int         // blksize that clients shall have at most, who did not get their first blocks
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
		r.blksize = min(r.blksize, g.maxBlock(client.Addr()))
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
	f, err := g.Open(r.name, client)
	if errors.Is(err, errNoNeighbour) && g.later(t, p) {
		return
	}
	g.opened(t, p, f, err)
}

// later opens the file of a request once the client's MAC is known. It reports whether it does: there may be too many
// whose MACs are asked for. The client asks again then.
func (g *gate) later(t *transfer, p []byte) bool {
	select {
	case g.asking <- struct{}{}:
	default:
		return false
	}
	g.transfers.Go(func() {
		defer func() { <-g.asking }()
		g.Resolve(g.ctx, t.client.Addr())
		f, err := g.Open(t.name, t.client)
		g.opened(t, p, f, err)
	})
	return true
}

// opened answers a request whose file was looked for.
func (g *gate) opened(t *transfer, p []byte, f tftpFile, err error) {
	t.file = f
	if errors.Is(err, errNotServed) {
		g.forget(t)
		g.Log.Debug("TFTP request left unanswered", "from", t.client, "file", untold(t.name), "err", err)
		return
	}
	g.seen(t.client, false, p, "")
	if err == nil && (t.write || !t.octet) {
		t.file.close(false)
		if err = errOctetOnly; t.write {
			err = errReadOnly
		}
	}
	if err != nil {
		g.forget(t)
		g.refuse(t.client, err)
		return
	}
	select {
	case g.waiting <- t:
	default: // it asks again
		g.forget(t)
		t.file.close(false)
	}
}

// maxBlock is what fits the link beside the IPv4, UDP and TFTP headers, and the way to the client, as far as that is known.
func (g *gate) maxBlock(client netip.Addr) int {
	most := min(max(g.MTU()-32, 512), 65464)
	if g.Blksize != 0 {
		most = min(most, g.Blksize)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return min(most, cmp.Or(g.small[client], most))
}

// shrink has a client get smaller blocks from now on, if it got none of a transfer's first ones: something on the way
// takes none so large, and says nothing. It reports whether it did.
func (g *gate) shrink(t *transfer, err error) bool {
	first := t.sent > 0 && t.sent <= t.block()*int64(max(1, t.window))
	if !first || !errors.Is(err, os.ErrDeadlineExceeded) || t.block() <= 512 {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.small) >= MaxTransfers {
		clear(g.small)
	}
	g.small[t.client.Addr()] = int(max(512, t.block()/2))
	return true
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
	conn, err := dialTFTP(client)
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

// serve sends one file.
func (g *gate) serve(t *transfer) {
	conn, err := dialTFTP(t.client)
	if err != nil {
		g.Log.Error("begin a TFTP transfer", "to", t.client, "err", err)
		g.end(t, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(g.ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	w := &sender{transfer: t, conn: conn, base: 1, wait: cmp.Or(g.Answer, time.Second)}
	for range max(1, t.window) {
		w.free = append(w.free, make([]byte, 4+t.block()))
	}
	err = w.send()
	if err == errUnreadable || err == errStopping {
		conn.Write(tftpError(codeOther, err.Error()))
	}
	g.end(t, err)
}

// next waits for a place and for a request to take it; nil is the end.
func (g *gate) next() *transfer {
	select {
	case g.places <- struct{}{}:
	case <-g.ctx.Done():
		return nil
	}
	t := g.first()
	if t == nil {
		<-g.places
	}
	return t
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

// end gives back what a transfer had.
func (g *gate) end(t *transfer, err error) {
	text := t.outcome(err)
	if g.shrink(t, err) {
		text += "; the next blocks it gets are smaller"
	}
	t.file.close(err == nil)
	if t.broken != nil {
		g.Log.Error("read a file for TFTP", "file", untold(t.name), "at", t.sent, "err", t.broken)
	}
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
