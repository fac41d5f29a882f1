package pxe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

// maxWindow bounds the blocks of a window, and with it what a transfer holds in
// memory. EDK2 asks for 4.
const maxWindow = 16

// windowTries is how often a window goes out before its client is given up; as
// for lock-step transfers.
const windowTries = 9

// window sends a file in windows of blocks (RFC 7440) to a client that asked
// for it, which the library cannot. It is lock-step window by window.
type window struct {
	*transfer
	conn   *net.UDPConn // connected to the client
	blocks [][]byte     // packets without an answer, the first numbered base
	free   [][]byte     // packets to fill
	base   uint16
	wait   time.Duration // for an answer
	answer [516]byte
	ended  bool // the last block is among blocks, or was acknowledged
}

// windowed is a whole transfer in windows. What it takes part in ends it.
func (g *gate) windowed(t *transfer) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(t.client))
	if err != nil {
		g.Log.Error("begin a TFTP transfer", "to", t.client, "err", err)
		g.end(t, err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(g.ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	w := &window{transfer: t, conn: conn, base: 1, wait: cmp.Or(g.Answer, time.Second)}
	for range t.window {
		w.free = append(w.free, make([]byte, 4+t.block()))
	}
	err = w.send()
	if err == errUnreadable || err == errStopping {
		conn.Write(tftpError(codeOther, err.Error()))
	}
	g.end(t, err)
}

func (w *window) send() error {
	oack := w.oack()
	if _, err := w.exchange(func() error { _, err := w.conn.Write(oack); return err }, func(ack uint16) (int, bool) { return 0, ack == 0 }); err != nil {
		return err
	}
	for {
		if err := w.fill(); err != nil {
			return err
		}
		if len(w.blocks) == 0 {
			return nil
		}
		n, err := w.exchange(w.write, w.acknowledged)
		if err != nil {
			return err
		}
		w.base += uint16(n)
		w.free = append(w.free, w.blocks[:n]...)
		w.blocks = append(w.blocks[:0], w.blocks[n:]...)
	}
}

// oack accepts the options that the client asked for (RFC 2347).
func (w *window) oack() []byte {
	p := []byte{0, opOACK}
	option := func(name string, n int64) { p = append(p, name+"\x00"+strconv.FormatInt(n, 10)+"\x00"...) }
	if w.blksize != 0 {
		option("blksize", int64(w.blksize))
	}
	if w.tsize {
		option("tsize", w.file.size)
	}
	option("windowsize", int64(w.window))
	return p
}

// fill reads blocks until the window is full, or the file has ended. The last one
// is shorter than the others, or empty.
func (w *window) fill() error {
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

func (w *window) write() error {
	for _, p := range w.blocks {
		if _, err := w.conn.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// acknowledged is how many blocks of the window the client has; none means that the
// first of them was lost.
func (w *window) acknowledged(ack uint16) (n int, ok bool) {
	n = int(ack - w.base + 1) // uint16: the numbers begin anew after 65535
	return n, n <= len(w.blocks)
}

// exchange sends, and waits for an acknowledgement that valid takes; it sends again
// where none comes. To one that means nothing new it does so once only, or each
// copy of it would make another (the "Sorcerer's Apprentice" of RFC 1123,
// section 4.2.3.1).
func (w *window) exchange(send func() error, valid func(ack uint16) (int, bool)) (int, error) {
	oack := len(w.blocks) == 0
	for again, tries := false, 0; tries < windowTries; {
		if err := send(); err != nil {
			return 0, err
		}
		n, err := w.await(valid, !again && !oack, oack)
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
	return 0, os.ErrDeadlineExceeded
}

// await waits for an answer that is valid; with zero, also for one that says that nothing came.
func (w *window) await(valid func(uint16) (int, bool), zero, oack bool) (int, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.wait)); err != nil {
		return 0, err
	}
	for p := w.answer[:]; ; {
		if w.ctx.Err() != nil { // before or after the deadline was set
			return 0, errStopping
		}
		n, err := w.conn.Read(p)
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
