package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxWindow bounds the blocks of a window, and with it what a transfer holds in
// memory. EDK2 asks for 4.
const maxWindow = 16

// sender sends a file to its client in windows of blocks (RFC 7440), of one block to a client that asked for no more:
// lock-step (RFC 1350).
type sender struct {
	*transfer
	conn   *net.UDPConn // connected to the client
	blocks [][]byte     // packets without an answer, the first numbered base
	free   [][]byte     // packets to fill
	base   uint16
	wait   time.Duration // for an answer
	answer [516]byte
	ended  bool  // the last block is among blocks, or was acknowledged
	unsent error // why the last packet was not sent
}

// dialTFTP opens a port of ours for one client (RFC 1350, section 4). What is sent from it may be cut into fragments on
// its way: firmware asks for blocks as large as its own network takes, and a network between may take less.
func dialTFTP(client netip.AddrPort) (*net.UDPConn, error) {
	d := net.Dialer{Control: withOptions(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})}
	conn, err := d.Dial("udp4", client.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func (w *sender) send() error {
	oack := w.oack()
	if oack != nil {
		put := func() error { return w.put(oack) }
		if _, err := w.exchange(put, func(ack uint16) (int, bool) { return 0, ack == 0 }); err != nil {
			return err
		}
	}
	for {
		if err := w.fill(); err != nil {
			return err
		}
		if len(w.blocks) == 0 {
			return nil
		}
		n, err := w.exchange(w.putBlocks, w.acknowledged)
		if err != nil {
			return err
		}
		w.base += uint16(n)
		w.free = append(w.free, w.blocks[:n]...)
		w.blocks = append(w.blocks[:0], w.blocks[n:]...)
	}
}

// oack accepts the options that the client asked for (RFC 2347); nil: it asked for none.
func (w *sender) oack() []byte {
	var p []byte
	option := func(name string, n int64) { p = append(p, name+"\x00"+strconv.FormatInt(n, 10)+"\x00"...) }
	if w.blksize != 0 {
		option("blksize", int64(w.blksize))
	}
	if w.tsize {
		option("tsize", w.file.size)
	}
	if w.window != 0 {
		option("windowsize", int64(w.window))
	}
	if p == nil {
		return nil
	}
	return append([]byte{0, opOACK}, p...)
}

// fill reads blocks until the window is full, or the file has ended. The last one
// is shorter than the others, or empty.
func (w *sender) fill() error {
	for !w.ended && len(w.free) > 0 {
		p := w.free[len(w.free)-1]
		p = p[:cap(p)]
		n, err := io.ReadFull(w, p[4:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		binary.BigEndian.PutUint16(p, opDATA)
		binary.BigEndian.PutUint16(p[2:], w.base+uint16(len(w.blocks)))
		w.free = w.free[:len(w.free)-1]
		w.blocks = append(w.blocks, p[:4+n])
		w.ended = err != nil
	}
	return nil
}

func (w *sender) putBlocks() error {
	for _, p := range w.blocks {
		if err := w.put(p); err != nil {
			return err
		}
	}
	return nil
}

// put sends a packet. An error that passes is as if the packet were lost: a cable is out for a moment, a firewall is
// being loaded, somebody sent an ICMP message.
func (w *sender) put(p []byte) error {
	_, err := w.conn.Write(p)
	if final(err) {
		return err
	}
	w.unsent = err
	return nil
}

// get waits for a packet.
func (w *sender) get(p []byte) (int, error) {
	for {
		if n, err := w.conn.Read(p); err == nil || final(err) {
			return n, err
		}
	}
}

func final(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// acknowledged is how many blocks of the window the client has; none means that the
// first of them was lost.
func (w *sender) acknowledged(ack uint16) (n int, ok bool) {
	n = int(ack - w.base + 1) // uint16: the numbers begin anew after 65535
	return n, n <= len(w.blocks)
}

// exchange sends, and waits for an acknowledgement that valid takes; it sends again
// where none comes. To one that means nothing new it does so once only, or each
// copy of it would make another (the "Sorcerer's Apprentice" of RFC 1123,
// section 4.2.3.1).
func (w *sender) exchange(send func() error, valid func(ack uint16) (int, bool)) (int, error) {
	oack := len(w.blocks) == 0
	for again, tries := false, 0; tries < tftpTries; {
		if err := send(); err != nil {
			return 0, err
		}
		n, err := w.await(valid, !again && !oack && w.window > 1, oack)
		switch {
		case w.ctx.Err() != nil:
			return 0, errStopping
		case errors.Is(err, os.ErrDeadlineExceeded):
			tries++
		case err != nil:
			return 0, err
		case n == 0 && !oack:
			again = true
		default:
			return n, nil
		}
	}
	if w.unsent != nil {
		return 0, fmt.Errorf("nothing can be sent to the client: %w", w.unsent)
	}
	return 0, os.ErrDeadlineExceeded
}

// await waits for an answer that is valid; with zero, also for one that says that nothing came.
func (w *sender) await(valid func(uint16) (int, bool), zero, oack bool) (int, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.wait)); err != nil {
		return 0, err
	}
	for p := w.answer[:]; ; {
		if w.ctx.Err() != nil { // before or after the deadline was set
			return 0, errStopping
		}
		n, err := w.get(p)
		if err != nil {
			return 0, err
		}
		if n < 4 || p[0] != 0 {
			continue
		}
		switch p[1] {
		case opError:
			return 0, fmt.Errorf("code=%d, error: %s", p[3], printable(string(p[4:n])))
		case opACK:
			if n, ok := valid(binary.BigEndian.Uint16(p[2:])); ok && (n > 0 || zero || oack) {
				return n, nil
			}
		}
	}
}
