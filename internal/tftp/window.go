package tftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// sender sends a file to its client in windows of blocks (RFC 7440). To a client that did not ask for windows they have
// one block: lock-step (RFC 1350).
type sender struct {
	*transfer
	conn       *net.UDPConn // connected to the client
	ackTimeout time.Duration
	window     [][]byte // DATA packets that are not acknowledged; the first has the number base
	free       [][]byte // packets to fill
	base       uint16
	complete   bool  // the last block of the file is in the window, or was acknowledged
	writeErr   error // why the last packet was not sent
	answer     [516]byte
}

func newSender(t *transfer, conn *net.UDPConn, ackTimeout time.Duration) *sender {
	s := &sender{transfer: t, conn: conn, base: 1, ackTimeout: ackTimeout}
	for range max(1, t.Window) {
		s.free = append(s.free, make([]byte, 4+t.blockBytes()))
	}
	return s
}

// send returns nil when the client has acknowledged the whole file.
func (s *sender) send() error {
	if oack := s.oack(s.file.Size); oack != nil {
		isZero := func(ack uint16) (int, bool) { return 1, ack == 0 }
		if _, err := s.exchange([][]byte{oack}, isZero); err != nil {
			return err
		}
	}

	for {
		if err := s.fill(); err != nil {
			return err
		}
		if len(s.window) == 0 {
			return nil
		}
		n, err := s.exchange(s.window, s.acknowledged)
		if err != nil {
			return err
		}

		s.base += uint16(n)
		s.free = append(s.free, s.window[:n]...)
		s.window = append(s.window[:0], s.window[n:]...)
	}
}

// fill reads blocks until the window is full or the file has ended. The last block is shorter than the others, or
// empty.
func (s *sender) fill() error {
	for !s.complete && len(s.free) > 0 {
		last := len(s.free) - 1
		packet := s.free[last]
		packet = packet[:cap(packet)]

		n, err := io.ReadFull(s, packet[4:])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		s.complete = err != nil

		binary.BigEndian.PutUint16(packet, opDATA)
		binary.BigEndian.PutUint16(packet[2:], s.base+uint16(len(s.window)))
		s.free = s.free[:last]
		s.window = append(s.window, packet[:4+n])
	}

	return nil
}

// acknowledged is how many blocks of the window an ACK acknowledges. None: the client has not got the first of them.
// It returns false if the ACK belongs to another window.
func (s *sender) acknowledged(ack uint16) (int, bool) {
	n := int(ack - s.base + 1) // in uint16: block numbers begin again at 0 after 65535
	return n, n <= len(s.window)
}

// exchange sends packets until the client acknowledges at least one of them, and returns how many. count says how many
// an ACK acknowledges, and whether it belongs to these packets.
//
// An ACK for none of them has the packets sent again, but once only: otherwise each copy of it would lead to another
// copy of all packets, and each of those to another ACK (the "Sorcerer's Apprentice" of RFC 1123, section 4.2.3.1). In
// lock-step it never does.
func (s *sender) exchange(packets [][]byte, count func(ack uint16) (int, bool)) (int, error) {
	acceptNone := s.Window > 1
	for tries := 0; tries < maxTries; {
		for _, packet := range packets {
			if err := s.writePacket(packet); err != nil {
				return 0, err
			}
		}

		n, err := s.await(count, acceptNone)
		switch {
		case s.ctx.Err() != nil:
			return 0, errStopping
		case errors.Is(err, os.ErrDeadlineExceeded):
			tries++
		case err != nil:
			return 0, err
		case n == 0:
			acceptNone = false
		default:
			return n, nil
		}
	}
	if s.writeErr != nil {
		return 0, fmt.Errorf("nothing can be sent to the client: %w", s.writeErr)
	}
	return 0, os.ErrDeadlineExceeded
}

// await waits for an ACK that count takes. One that acknowledges nothing is passed over, unless acceptNone.
func (s *sender) await(count func(ack uint16) (int, bool), acceptNone bool) (int, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(s.ackTimeout)); err != nil {
		return 0, err
	}
	for {
		// The server's end sets a deadline in the past, which may have come before the one above.
		if s.ctx.Err() != nil {
			return 0, errStopping
		}

		size, err := s.readPacket(s.answer[:])
		if err != nil {
			return 0, err
		}

		if size < 4 || s.answer[0] != 0 {
			continue
		}
		switch s.answer[1] {
		case opERROR:
			return 0, clientError{code: s.answer[3], text: printable(string(s.answer[4:size]))}
		case opACK:
			n, ok := count(binary.BigEndian.Uint16(s.answer[2:]))
			if ok && (n > 0 || acceptNone) {
				return n, nil
			}
		}
	}
}

// writePacket sends a packet. An error that may pass counts as if the packet were lost: a cable is out for a moment, a
// firewall is being loaded, somebody sent an ICMP message.
func (s *sender) writePacket(packet []byte) error {
	_, err := s.conn.Write(packet)
	if isFinal(err) {
		return err
	}
	s.writeErr = err
	return nil
}

// readPacket waits for a packet. Errors that may pass are passed over.
func (s *sender) readPacket(buf []byte) (int, error) {
	for {
		n, err := s.conn.Read(buf)
		if err == nil || isFinal(err) {
			return n, err
		}
	}
}

// isFinal reports whether an error on a socket ends what is being done, and does not only concern one packet.
func isFinal(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}
