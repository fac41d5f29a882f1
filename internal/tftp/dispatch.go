package tftp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// dispatcher reads the requests, decides which are answered, and begins one transfer after the other while there are
// slots for them. It is the state of one call of Server.Run.
type dispatcher struct {
	*Server
	ctx       context.Context // ends when the server stops
	slots     chan struct{}   // has one element for each transfer under way
	waiting   chan *transfer  // accepted, without a slot yet
	resolving chan struct{}   // has one element for each request that waits for Resolve
	work      sync.WaitGroup  // transfers under way, and requests that wait for Resolve

	mu      sync.Mutex
	known   map[conversation]*transfer // waiting, under way, or completed a moment ago
	counts  map[sharer]int             // transfers that wait or are under way
	reduced map[netip.Addr]int         // blksize for clients that did not get larger blocks, in bytes
}

func newDispatcher(ctx context.Context, s *Server) *dispatcher {
	return &dispatcher{
		Server:    s,
		ctx:       ctx,
		slots:     make(chan struct{}, cmp.Or(s.Transfers, MaxTransfers)),
		waiting:   make(chan *transfer, MaxTransfers),
		resolving: make(chan struct{}, maxResolving),
		known:     make(map[conversation]*transfer),
		counts:    make(map[sharer]int),
		reduced:   make(map[netip.Addr]int),
	}
}

// receive reads the server's port until it is closed.
func (d *dispatcher) receive(conn *net.UDPConn) error {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		client := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		d.handle(bytes.Clone(buf[:n]), client)
	}
}

// handle decides about one packet: silence, an ERROR, or a transfer.
func (d *dispatcher) handle(packet []byte, client netip.AddrPort) {
	r, ok := ParseRequest(packet)
	if !ok {
		return
	}
	if r.Blksize != 0 {
		r.Blksize = min(r.Blksize, d.blksizeFor(client.Addr()))
	}

	t := &transfer{Request: r, client: client, ctx: d.ctx, asked: time.Now()}
	if d.duplicate(t, packet) {
		return
	}
	if !d.acquireShare(t) { // the client asks again
		d.forget(t)
		d.dropped(t)
		return
	}

	f, err := d.Open(r.Name, client)
	if errors.Is(err, ErrUnresolved) && d.resolve(t, packet) {
		return
	}

	d.opened(t, packet, f, err)
}

// resolve opens the file of a request once the client's MAC is known. It returns false if too many requests wait for
// that; the client asks again.
func (d *dispatcher) resolve(t *transfer, packet []byte) bool {
	select {
	case d.resolving <- struct{}{}:
	default:
		d.dropped(t)
		return false
	}
	d.work.Go(func() {
		defer func() { <-d.resolving }()
		d.Resolve(d.ctx, t.client.Addr())
		f, err := d.Open(t.Name, t.client)
		d.opened(t, packet, f, err)
	})
	return true
}

// opened answers a request for which Open has returned.
func (d *dispatcher) opened(t *transfer, packet []byte, f File, err error) {
	if errors.Is(err, ErrNotServed) {
		d.forget(t)
		d.Log.Debug("TFTP request left unanswered", "from", t.client, "file", d.displayName(t.Name), "err", err)
		return
	}
	d.observe(Event{Client: t.client, Packet: packet})
	if err == nil && (t.Write || !t.Octet) {
		f.Close(false)
		err = errOctetOnly
		if t.Write {
			err = errReadOnly
		}
	}
	if err != nil {
		d.forget(t)
		d.refuse(t.client, err)
		return
	}

	t.file = f
	select {
	case d.waiting <- t:
	default: // too many wait; the client asks again
		d.forget(t)
		f.Close(false)
		d.dropped(t)
	}
}

// dropped tells of a request that is left unanswered because of a bound.
func (d *dispatcher) dropped(t *transfer) {
	d.Log.Debug("TFTP request left unanswered: there are enough like it",
		"from", t.client, "file", d.displayName(t.Name))
	if d.Dropped != nil {
		d.Dropped(t.client.Addr())
	}
}

// duplicate remembers a transfer and returns false, unless its conversation is known already.
func (d *dispatcher) duplicate(t *transfer, packet []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.known[t.conversation()]
	if old == nil {
		d.known[t.conversation()] = t
		return false
	}
	old.asked = t.asked
	if !old.begun.IsZero() {
		old.repeated = packet
	}
	return true
}

// forget ends the conversation of a transfer.
func (d *dispatcher) forget(t *transfer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, t.conversation())
	d.releaseShare(t)
}

// refuse sends an ERROR packet, like any first answer from a new port (RFC 1350 section 4).
func (d *dispatcher) refuse(client netip.AddrPort, reason error) {
	code := byte(codeUndefined)
	switch {
	case errors.Is(reason, ErrNotFound):
		code = codeNotFound
	case errors.Is(reason, errReadOnly):
		code = codeAccess
	}

	packet := errorPacket(code, reason.Error())

	conn, err := dial(client)
	if err == nil {
		defer conn.Close()
		_, err = conn.Write(packet)
	}
	if err != nil {
		d.Log.Debug("TFTP refusal not sent", "to", client, "err", err)
		return
	}

	d.observe(Event{Client: client, Sent: true, Packet: packet})
}

// next waits for a slot and for a request to use it. It returns nil when the server stops.
func (d *dispatcher) next() *transfer {
	select {
	case d.slots <- struct{}{}:
	case <-d.ctx.Done():
		return nil
	}
	t := d.nextWaiting()
	if t == nil {
		<-d.slots
	}
	return t
}

// nextWaiting waits for a request whose client has not given up. It returns nil when the server stops.
func (d *dispatcher) nextWaiting() *transfer {
	for {
		select {
		case t := <-d.waiting:
			if d.begin(t) {
				return t
			}
			t.file.Close(false)
			text := "no place for " + d.displayName(t.Name) + ": the client gave up"
			d.observe(Event{Client: t.client, Sent: true, Text: text})
		case <-d.ctx.Done():
			return nil
		}
	}
}

// begin marks a transfer as begun. It returns false, and forgets the transfer, if its client has given up.
func (d *dispatcher) begin(t *transfer) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(t.asked) > requestPatience {
		delete(d.known, t.conversation())
		d.releaseShare(t)
		return false
	}
	t.begun = time.Now()
	return true
}

// dropWaiting closes the files of the requests that got no slot before the server stopped.
func (d *dispatcher) dropWaiting() {
	for {
		select {
		case t := <-d.waiting:
			t.file.Close(false)
		default:
			return
		}
	}
}

// serve sends one file.
func (d *dispatcher) serve(t *transfer) {
	conn, err := dial(t.client)
	if err != nil {
		d.Log.Error("begin a TFTP transfer", "to", t.client, "err", err)
		d.end(t, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(d.ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()

	err = newSender(t, conn, d.ackTimeout()).send()
	if err == errUnreadable || err == errStopping {
		conn.Write(errorPacket(codeUndefined, err.Error()))
	}
	d.end(t, err)
}

// end reports how a transfer ended, and frees what it had.
func (d *dispatcher) end(t *transfer, err error) {
	text := t.outcome(d.displayName(t.Name), err)
	if d.reduceBlksize(t, err) {
		text += "; the next blocks it gets are smaller"
	}

	t.file.Close(err == nil)
	if t.readErr != nil {
		d.Log.Error("read a file for TFTP", "file", d.displayName(t.Name), "at", t.sent, "err", t.readErr)
	}

	d.Log.Debug("TFTP", "client", t.client, "outcome", text)
	d.observe(Event{Client: t.client, Sent: true, Text: text})
	if err == nil && d.Completed != nil {
		d.Completed(Completed{
			Client:  t.client,
			Blocks:  t.sent/t.blockBytes() + 1,
			Blksize: t.blockBytes(),
			Took:    time.Since(t.begun),
		})
	}

	<-d.slots
	if err == nil {
		d.mu.Lock()
		d.releaseShare(t)
		d.mu.Unlock()
		time.AfterFunc(lingerTime, func() { d.forget(t) })
		return
	}

	// A request that was repeated in a transfer that failed is a new request: its client had asked for the size only,
	// or was switched off and on.
	d.forget(t)
	if t.repeated != nil {
		d.handle(t.repeated, t.client)
	}
}
