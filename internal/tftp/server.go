// Package tftp serves files over TFTP to firmware that boots from the network.
//
// # What it does
//
// A [Server] answers read requests on one UDP socket. The caller's function [Server.Open] decides which file a client
// gets, and whether it gets an answer at all. These parts of TFTP are served:
//
//   - RFC 1350: read requests in octet mode, lock-step. Each transfer has a port of its own.
//   - RFC 2347: options. An option that the server does not know, and a value that makes no sense, is left out of the
//     answer.
//   - RFC 2348: blksize, 8 to 65464 bytes.
//   - RFC 2349: tsize, the size of the file in bytes.
//   - RFC 7440: windowsize, up to 16 blocks.
//
// Block numbers begin again at 0 after 65535, so that files may be larger than 65535 blocks.
//
// # What it does not do
//
// Nothing is written: to a write request (WRQ) the answer is ERROR 2. The modes netascii and mail are refused with
// ERROR 0. The option timeout (RFC 2349) is declined: a packet is repeated when a second has passed without an answer,
// whatever the client asks for. There is no multicast (RFC 2090), and no IPv6. Names are not paths: the server
// compares nothing, joins nothing and opens nothing; it removes repeated slashes and the leading one.
//
// # Bounds
//
// Anybody on the network can send requests, with any source address. Therefore these bounds hold, whatever clients do:
//
//   - [MaxTransfers] transfers at one time, or [Server.Transfers], and as many requests that wait for one to end.
//   - 16 transfers and waiting requests for each client address, and for each [Server.Group].
//   - 64 requests at one time wait for [Server.Resolve].
//   - A block of more than 512 bytes fits into one frame of [Server.MTU]. A client that acknowledges none of its first
//     blocks gets smaller ones when it asks again, down to 512 bytes, which every network carries.
//   - A transfer holds one window of blocks and, unless the file is in memory, 16 KiB that are read ahead.
//   - A packet that is not answered is sent 9 times, a second apart. Then the transfer ends. If the source
//     address of a request was forged, its owner gets 9 packets of 516 bytes at most for it.
//   - A request that waited and that its client did not repeat for 10 seconds is dropped.
//
// The package may import nothing else of this project: it knows no host and no boot.
package tftp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Errors that [Server.Open] may return. An ERROR packet with the text of any other error is sent to the client.
var (
	// ErrNotServed has the server keep silent: even an ERROR packet would tell a stranger that there is a server.
	ErrNotServed = errors.New("not served")

	// ErrUnresolved has the server wait for Server.Resolve and then call Server.Open once more. It is an ErrNotServed,
	// too: the server keeps silent if it is returned again.
	ErrUnresolved = fmt.Errorf("%w: the client's MAC is not known yet", ErrNotServed)

	// ErrNotFound is sent to the client as ERROR 1 (RFC 1350, appendix). Firmware that looks for an optional file
	// goes on at once; without an answer, iPXE waits for 20 seconds.
	ErrNotFound = errors.New("file not found")
)

// File is a file that a client may have.
type File struct {
	Content io.ReadCloser

	// Size is the number of bytes that are sent of Content. A transfer of which Content has fewer fails.
	Size int64

	// InMemory means that reading Content makes no system call, so that nothing needs to be read ahead.
	InMemory bool

	// Done is called once: when the transfer has ended, or will not take place. whole means that the client
	// acknowledged all of the file. It may be nil.
	Done func(whole bool)
}

// Close closes the content and calls Done. It is for files that were opened and are not handed to a [Server].
func (f File) Close(whole bool) {
	f.Content.Close()
	if f.Done != nil {
		f.Done(whole)
	}
}

// Server serves files on one UDP socket. Its fields are its options; MTU, Open and Log are required. The functions are
// called from several goroutines.
type Server struct {
	// MTU returns the MTU of the network that the socket is on, in bytes. It is called for each request, since an MTU
	// may change.
	MTU func() int

	// MaxBlksize is the largest block that a client gets, in bytes, 512 to 65464. Zero: what MTU allows.
	MaxBlksize int

	// Transfers is how many transfers there are at one time. Zero: MaxTransfers.
	Transfers int

	// AckTimeout is how long the server waits for an acknowledgement before it sends a packet again. Zero: a second.
	AckTimeout time.Duration

	// Open finds the file for a request. The name has neither a leading slash nor repeated ones, and is otherwise as
	// the client sent it. Open is called on the goroutine that receives the requests, and must not block.
	Open func(name string, client netip.AddrPort) (File, error)

	// Resolve is called when Open returned ErrUnresolved. It returns when the client's MAC is known, or cannot be
	// found out. It may be nil if Open never returns ErrUnresolved.
	Resolve func(ctx context.Context, client netip.Addr)

	// Group returns what a transfer is counted for beside its client, such as a secret that is part of the name: a
	// client can send from many addresses, and all its transfers are then bounded together. The empty string: nothing.
	// It may be nil.
	Group func(name string) string

	// DisplayName returns a file's name as it may be logged: printable, and without secrets. If it is nil, names are
	// logged whole, without unprintable characters.
	DisplayName func(name string) string

	// Observe is told of each request for which Open did not return ErrNotServed, of each ERROR packet that refuses
	// one, and of how each transfer ended. It may be nil.
	Observe func(Event)

	// Completed is told of each transfer that the client acknowledged as a whole. It may be nil.
	Completed func(Completed)

	// Dropped is told of each request that is left unanswered because of a bound, and of its client. It may be nil.
	Dropped func(client netip.Addr)

	Log *slog.Logger
}

// Event is something that a [Server] received, sent or did.
type Event struct {
	Client netip.AddrPort

	// Sent means that the server is the one who acted. Otherwise the client did.
	Sent bool

	// Packet is a request or an ERROR packet. It is nil in an event that says how a transfer ended.
	Packet []byte

	// Text says how a transfer ended, in words.
	Text string
}

// Completed is a transfer that the client acknowledged as a whole.
type Completed struct {
	Client netip.AddrPort

	// Blocks is how many blocks the client got, and Blksize how many bytes each of them had, but the last.
	Blocks, Blksize int64

	// Took is the time from the answer to the request until the last acknowledgement.
	Took time.Duration
}

// What a client may be told in an ERROR packet, beside ErrNotFound and the errors of Server.Open.
var (
	errReadOnly   = errors.New("files can only be read")
	errOctetOnly  = errors.New("only octet mode is served")
	errUnreadable = errors.New("the server cannot read the file")
	errStopping   = errors.New("the server stops")
)

// Run serves the requests that conn receives until ctx ends, and then returns nil. It closes conn. The transfers under
// way end with it, those that wait for their client within a second.
func (s *Server) Run(ctx context.Context, conn *net.UDPConn) error {
	if err := growReceiveBuffer(conn, 4*MaxTransfers); err != nil {
		return fmt.Errorf("serve TFTP: %w", err)
	}

	serving, stop := context.WithCancel(ctx)
	defer stop()

	defer context.AfterFunc(serving, func() { conn.Close() })()

	d := newDispatcher(serving, s)
	received := make(chan error, 1)
	go func() {
		defer stop()
		received <- d.receive(conn)
	}()

	for t := d.next(); t != nil; t = d.next() {
		d.work.Go(func() { d.serve(t) })
	}

	err := <-received
	d.work.Wait()
	d.dropWaiting()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve TFTP: %w", err)
}

// ackTimeout is AckTimeout with its default.
func (s *Server) ackTimeout() time.Duration {
	return cmp.Or(s.AckTimeout, time.Second)
}

// displayName is DisplayName with its default.
func (s *Server) displayName(name string) string {
	if s.DisplayName == nil {
		return printable(name)
	}
	return s.DisplayName(name)
}

// observe calls Observe, if there is one.
func (s *Server) observe(e Event) {
	if s.Observe != nil {
		s.Observe(e)
	}
}
