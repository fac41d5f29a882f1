package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"
)

// tftpFile is a file that a client may have.
type tftpFile struct {
	content io.ReadCloser
	size    int64
	done    func(whole bool) // called once, when the transfer ended or did not come about; may be nil
}

func (f tftpFile) close(whole bool) {
	f.content.Close()
	if f.done != nil {
		f.done(whole)
	}
}

// tftpServer hands out files on one link, lock-step: strict boot ROMs agreed
// to nothing else.
type tftpServer struct {
	MTU int // of the link; it bounds blksize

	// Open finds the file for a request, and is called once for each, from
	// several goroutines. To errNotServed the answer is silence: an ERROR packet would tell a stranger
	// that there is a server. Any other error is sent to the client, for where
	// one is due: iPXE looks for autoexec.ipxe beside itself, and waits 20
	// seconds for an answer.
	Open func(name string, client netip.AddrPort) (tftpFile, error)

	// Seen is told of each request that Open did not leave unanswered, of each
	// ERROR packet sent for one, and, in words, of how each transfer ended. It
	// may be nil.
	Seen func(client netip.AddrPort, sent bool, packet []byte, text string)

	Log *slog.Logger
}

const (
	// MaxTransfers bounds the TFTP transfers at one time, and the requests
	// that wait for one to end. A token is seen by the whole LAN, and each
	// request with it, from whatever source address, keeps a socket busy for
	// some seconds.
	MaxTransfers = 1024

	// Firmware repeats a request after 1 to 5 seconds, and gives up after 15
	// or more. One that was not repeated for so long is not waited for.
	tftpPatience = 10 * time.Second

	// A request may arrive twice. So long after a file went out whole, another
	// from the same port is the old one. (Firmware that does mean it asks again
	// after a second or more.)
	tftpLinger = time.Second / 4
)

var (
	errNotServed  = errors.New("not served")
	errNoFile     = errors.New("file not found")
	errReadOnly   = errors.New("files can only be read")
	errOctetOnly  = errors.New("only octet mode is served")
	errUnreadable = errors.New("the server cannot read the file")
	errStopping   = errors.New("the server stops")
)

// Run serves until ctx ends, and then returns nil. The transfers under way end
// with it, those that wait for their client within a second.
func (t *tftpServer) Run(ctx context.Context, conn *net.UDPConn) error {
	if err := roomFor(conn, 4*MaxTransfers); err != nil {
		return fmt.Errorf("serve TFTP: %w", err)
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	g := &gate{UDPConn: conn, tftpServer: t, ctx: serving,
		places: make(chan struct{}, MaxTransfers), waiting: make(chan *transfer, MaxTransfers), known: make(map[conversation]*transfer)}
	library := tftp.NewServer(g.transfer, nil)
	library.SetHook(g)
	library.SetTimeout(time.Second) // a Pi hangs on a packet that is repeated sooner
	library.SetRetries(8)
	library.SetBackoff(g.backoff)
	library.SetBlockSizeNegotiation(false) // the gate has done it
	g.shutdown = library.Shutdown
	defer context.AfterFunc(serving, func() { conn.Close() })()
	received := make(chan error, 1)
	go func() {
		defer stop()
		received <- g.receive()
	}()
	err := library.Serve(g)
	stop()
	err = errors.Join(err, <-received)
	g.sendAway()
	if ctx.Err() != nil || closed(err) {
		return nil
	}
	return fmt.Errorf("serve TFTP: %w", err)
}

// roomFor lets so many small packets wait in a socket's buffer. By default it
// is some 270, and machines may well be switched on by the hundred.
func roomFor(conn *net.UDPConn, packets int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	size := packets * 512 // the kernel doubles it; each packet costs it 768 bytes and more
	return raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			// Without CAP_NET_ADMIN: as much as net.core.rmem_max allows.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
	})
}

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
	given    *transfer       // the last that the library was given; used by its Serve only

	mu    sync.Mutex
	known map[conversation]*transfer // waiting, under way, or ended whole just now
}

// conversation tells transfers apart: a second request in one is a duplicate.
type conversation struct {
	client netip.AddrPort
	name   string
}

// transfer is one file on its way to one client.
type transfer struct {
	tftpRequest
	client netip.AddrPort
	file   tftpFile
	ctx    context.Context
	sent   int64     // bytes read for sending
	broken error     // why the file could not be read
	begun  time.Time // zero: it waits

	// Guarded by the gate:
	asked time.Time // when the client last asked
	again []byte    // the request, when repeated since begun
}

func (t *transfer) conversation() conversation { return conversation{t.client, t.name} }

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
	var err error
	t.file, err = g.Open(r.name, client)
	if errors.Is(err, errNotServed) {
		g.forget(t)
		g.Log.Debug("TFTP request left unanswered", "from", client, "file", printable(r.name), "err", err)
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

func (g *gate) forget(t *transfer) {
	g.mu.Lock()
	delete(g.known, t.conversation())
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

// next waits for a place and for a request to take it; nil is the end.
func (g *gate) next() *transfer {
	select {
	case g.places <- struct{}{}:
	case <-g.ctx.Done():
		return nil
	}
	for {
		select {
		case t := <-g.waiting:
			if g.begin(t) {
				return t
			}
			t.file.close(false)
			g.seen(t.client, true, nil, "no place for "+printable(t.name)+": the client gave up")
		case <-g.ctx.Done():
			<-g.places
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

// lost is the panic that ends a transfer whose client does not listen any
// more. The library has no other way out: it would answer an ERROR packet with
// another, which a client that asks again from the same port takes for the
// answer, and would repeat packets for 8 seconds to a client that vanished
// while the server wants to stop.
type lost struct{ error }

func (t *transfer) send(to io.ReaderFrom) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case lost:
			err = v.error
		default:
			panic(v)
		}
	}()
	_, err = to.ReadFrom(t)
	return err
}

// Read implements io.Reader: the file's content as far as its size, as the
// client was told it.
func (t *transfer) Read(p []byte) (int, error) {
	switch {
	case t.ctx.Err() != nil:
		return 0, errStopping
	case t.sent == t.file.size:
		return 0, io.EOF
	}
	n, err := t.file.content.Read(p[:min(int64(len(p)), t.file.size-t.sent)])
	switch t.sent += int64(n); {
	case err == nil, err == io.EOF && t.sent == t.file.size:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	t.broken = err
	return n, errUnreadable
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
		g.Log.Error("read a file for TFTP", "file", printable(t.name), "at", t.sent, "err", t.broken)
	}
	text := t.outcome(err)
	g.Log.Debug("TFTP", "client", t.client, "outcome", text)
	g.seen(t.client, true, nil, text)
	<-g.places
	if err == nil {
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

// outcome says how a transfer ended.
func (t *transfer) outcome(err error) string {
	name, took := printable(t.name), time.Since(t.begun).Seconds()
	switch {
	case err == nil:
		blksize := t.blksize
		if blksize == 0 {
			blksize = 512
		}
		return fmt.Sprintf("sent %s whole: %d bytes, blksize %d, %.1f s", name, t.sent, blksize, took)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("%s ended early: no answer from the client after %d bytes, %.1f s", name, t.sent, took)
	case t.tsize && t.sent == 0 && byClient(err):
		return fmt.Sprintf("told the size of %s: %d bytes", name, t.file.size)
	default:
		return fmt.Sprintf("%s ended early: %s; after %d bytes, %.1f s", name, printable(err.Error()), t.sent, took)
	}
}

// byClient reports whether the error is an ERROR packet of the client.
func byClient(err error) bool {
	var network net.Error
	return err != nil && err != errUnreadable && err != errStopping && !errors.As(err, &network)
}
