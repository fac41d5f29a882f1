package pxe

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"
)

// tftpFile is a file that a client may have.
type tftpFile struct {
	content io.ReadCloser
	size    int64
	// inMemory: reading content is no call of the system.
	inMemory bool
	done     func(whole bool) // called once, when the transfer ended or did not come about; may be nil
}

func (f tftpFile) close(whole bool) {
	f.content.Close()
	if f.done != nil {
		f.done(whole)
	}
}

// tftpServer hands out files on one link.
type tftpServer struct {
	MTU       func() int // of the link, in bytes; it bounds blksize
	Blksize   int        // bounds it, too, in bytes; 0: it does not
	Transfers int        // at a time; 0: MaxTransfers

	// Open finds the file for a request, and is called once for each, from
	// several goroutines. To errNotServed the answer is silence: an ERROR
	// packet would tell a stranger that there is a server. Any other error is
	// sent to the client: iPXE looks for autoexec.ipxe beside itself, and waits
	// 20 seconds for an answer.
	Open func(name string, client netip.AddrPort) (tftpFile, error)

	// Resolve waits until the MAC of a client is known for whom Open returned errNoNeighbour, or cannot be. It may be
	// nil if Open never does.
	Resolve func(context.Context, netip.Addr)

	// Seen is told of each request that Open did not leave unanswered, of each
	// ERROR packet sent for one, and, in words, of how each transfer ended. It
	// may be nil.
	Seen func(client netip.AddrPort, sent bool, packet []byte, text string)

	// Took is told how long the blocks of each transfer took that was whole. It
	// may be nil.
	Took func(client netip.AddrPort, blocks, blksize int64, took time.Duration)

	// Answer is how long a window waits for one before it goes out again; 0: a
	// second, as blocks do.
	Answer time.Duration

	Log *slog.Logger
}

const (
	// MaxTransfers bounds the TFTP transfers at one time, and the requests
	// that wait for one to end. A token is seen by the whole LAN, and each
	// request with it, from whatever source address, keeps a socket busy for
	// some seconds.
	MaxTransfers = 1024

	// maxAsking bounds the clients whose MACs are asked for at one time, each with a socket.
	maxAsking = 64

	// Firmware repeats a request after 1 to 5 seconds, and gives up after 15
	// or more. A request that was not repeated for so long waits no longer.
	tftpPatience = 10 * time.Second

	// tftpTries is how often a packet goes out before its client is given up.
	tftpTries = 9

	// So much of a file is read at a time, in bytes: a call of the system for
	// each block would be a quarter of all.
	tftpAhead = 16 << 10

	// A request may arrive twice. So long after a file went out whole, another
	// from the same port is the old one. (Firmware that does mean it asks again
	// after a second or more.)
	tftpLinger = time.Second / 4
)

var (
	errNotServed = errors.New("not served")
	// errNoNeighbour is an errNotServed, too.
	errNoNeighbour = fmt.Errorf("%w: the client's MAC is not known yet", errNotServed)

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
		places: make(chan struct{}, cmp.Or(t.Transfers, MaxTransfers)), waiting: make(chan *transfer, MaxTransfers), asking: make(chan struct{}, maxAsking),
		known: make(map[conversation]*transfer), held: make(map[holder]int), small: make(map[netip.Addr]int)}
	defer context.AfterFunc(serving, func() { conn.Close() })()
	received := make(chan error, 1)
	go func() {
		defer stop()
		received <- g.receive()
	}()
	for next := g.next(); next != nil; next = g.next() {
		g.transfers.Go(func() { g.serve(next) })
	}
	err := <-received
	g.transfers.Wait()
	g.sendAway()
	if ctx.Err() != nil || closed(err) {
		return nil
	}
	return fmt.Errorf("serve TFTP: %w", err)
}

// transfer is one file on its way to one client.
type transfer struct {
	tftpRequest
	client netip.AddrPort
	file   tftpFile
	ahead  io.Reader // of file; nil until it is read
	ctx    context.Context
	sent   int64     // bytes read for sending
	broken error     // why the file could not be read
	begun  time.Time // zero: it waits

	// Guarded by the gate:
	asked time.Time // when the client last asked
	again []byte    // the request, when repeated since begun
	holds bool      // it counts against its holders' shares
}

func (t *transfer) conversation() conversation { return conversation{t.client, t.name} }

// Read implements io.Reader: the file's content as far as its size, as the
// client was told it.
func (t *transfer) Read(p []byte) (int, error) {
	switch {
	case t.ctx.Err() != nil:
		return 0, errStopping
	case t.sent == t.file.size:
		return 0, io.EOF
	}
	if t.ahead == nil { // who waits needs none
		if t.ahead = t.file.content; !t.file.inMemory {
			t.ahead = bufio.NewReaderSize(t.file.content, tftpAhead)
		}
	}
	n, err := t.ahead.Read(p[:min(int64(len(p)), t.file.size-t.sent)])
	switch t.sent += int64(n); {
	case err == nil, err == io.EOF && t.sent == t.file.size:
		return n, nil
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	t.broken = err
	return n, errUnreadable
}

// block is the size of its blocks in bytes.
func (t *transfer) block() int64 {
	if t.blksize == 0 {
		return 512 // RFC 1350
	}
	return int64(t.blksize)
}

// outcome says how a transfer ended.
func (t *transfer) outcome(err error) string {
	name, took := untold(t.name), time.Since(t.begun).Seconds()
	switch {
	case err == nil:
		return fmt.Sprintf("sent %s whole: %d bytes, blksize %d, %.1f s", name, t.sent, t.block(), took)
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
	return err != errUnreadable && err != errStopping && !errors.As(err, &network)
}
