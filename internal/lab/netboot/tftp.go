package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// udpConn is what TFTP and port 4011 need of a *net.UDPConn.
type udpConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
}

// readUntil reads a datagram; n is -1 at the deadline.
func readUntil(ctx context.Context, conn udpConn, buf []byte, deadline time.Time) (n int, from netip.AddrPort, err error) {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return 0, from, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, from, err = conn.ReadFromUDPAddrPort(buf)
	if ctx.Err() != nil {
		return 0, from, ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return -1, from, nil
	}
	return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
}

// tftpStyle is how a firmware uses TFTP.
type tftpStyle struct {
	probe []string // options of a request that only wants the size; nil: there is none
	read  []string // options of the request that reads: name, value, …
	waits []time.Duration
}

func (r *run) tftpStyle() tftpStyle {
	var s tftpStyle
	switch f := r.family(); f {
	case edk2:
		s.read = []string{"blksize", "1468", "windowsize", "4"}
		s.probe = append([]string{"tsize", "0"}, s.read...)
		s.waits = seconds(4, 4, 4, 4, 4, 4)
	case intel:
		s = tftpStyle{[]string{"tsize", "0"}, []string{"blksize", "1456"}, seconds(4, 4, 4, 4, 4, 4)}
	case ipxeFamily:
		s = tftpStyle{nil, []string{"blksize", "1432", "tsize", "0"}, seconds(1, 2, 4, 8, 5)}
	case ubootFamily:
		s = tftpStyle{nil, []string{"timeout", "5", "blksize", "1468"}, seconds(5, 5, 5, 5, 5, 5, 5, 5, 5, 5)}
	case pi:
		s = tftpStyle{nil, r.piTFTP(), seconds(5, 5, 5, 5, 5, 5)} // TFTP_FILE_TIMEOUT 30000
	}
	switch {
	case r.Block == 512:
		s.probe, s.read = nil, nil
	case r.Block > 0:
		for _, list := range [][]string{s.probe, s.read} {
			for i := 0; i+1 < len(list); i += 2 {
				if list[i] == "blksize" {
					list[i+1] = strconv.Itoa(r.Block)
				}
			}
		}
	}
	return s
}

// tftp fetches a file the way this firmware does. Of what it reads, up to keep bytes are returned.
func (r *run) tftp(ctx context.Context, stage string, server netip.Addr, name string, limit int64) (Fetch, []byte, error) {
	style := r.tftpStyle()
	if limit < 0 && style.probe == nil {
		style.probe = []string{"tsize", "0"}
	}
	f := Fetch{Stage: r.stage + stage, URL: "tftp://" + server.String() + "/" + name, Size: -1}
	begin := time.Now()
	var body []byte
	var err error
	if style.probe != nil {
		_, err = r.transfer(ctx, &f, server, name, style.probe, style.waits, -1)
	}
	if limit >= 0 && err == nil && f.Failed == "" {
		body, err = r.transfer(ctx, &f, server, name, style.read, style.waits, limit)
	}
	f.Took = time.Since(begin)
	r.res.Fetched = append(r.res.Fetched, f)
	r.res.Server = server
	r.timed(stage, begin, time.Now(), f.Tries)
	if err == nil && f.Failed != "" {
		err = stopf("PXE-E23: client received a TFTP error from the server: %s: %s", f.URL, f.Failed)
	}
	return f, body, err
}

// keep bounds what is kept of a file: scripts whole, images not.
const keep = 64 << 10

// sink takes the bytes of a file.
type sink struct {
	f    *Fetch
	sum  hash.Hash
	body bytes.Buffer
	save io.Writer // may be nil
}

func newSink(f *Fetch, save io.Writer) *sink {
	f.Bytes = 0
	return &sink{f: f, sum: sha256.New(), save: save}
}

func (s *sink) Write(b []byte) (int, error) {
	s.f.Bytes += int64(len(b))
	s.sum.Write(b)
	s.body.Write(b[:min(len(b), keep-s.body.Len())])
	if s.save != nil {
		return s.save.Write(b)
	}
	return len(b), nil
}

func (s *sink) close() []byte {
	s.f.SHA256 = fmt.Sprintf("%x", s.sum.Sum(nil))
	return s.body.Bytes()
}

// TFTP packets (RFC 1350, RFC 2347, RFC 7440).
const (
	opRead  = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// transfer is one TFTP read request and what follows. A limit ends it early; a negative one after the first answer.
func (r *run) transfer(ctx context.Context, f *Fetch, server netip.Addr, name string, options []string, waits []time.Duration, limit int64) ([]byte, error) {
	conn, err := r.w.udp(netip.AddrPortFrom(r.own, 0))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rrq := append([]byte{0, opRead}, name...)
	rrq = append(append(rrq, 0), "octet\x00"...)
	for _, o := range options {
		rrq = append(append(rrq, o...), 0)
	}
	t := &transfer{run: r, f: f, conn: conn, peer: netip.AddrPortFrom(server, 69), last: rrq, asked: options,
		sink: newSink(f, r.save), limit: limit, block: 512, window: 1}
	r.note(true, t.peer, nil, "TFTP read %s %s", name, strings.Join(options, " "))
	buf := make([]byte, 4+max(1468, r.Block)+1)
	for try := 0; ; {
		if t.last != nil {
			send := func() error {
				_, err := conn.WriteToUDPAddrPort(t.last, t.peer)
				return err
			}
			if t.next == 0 {
				f.Tries++
				err = r.question(send)
			} else {
				err = send()
			}
			if err != nil {
				return nil, fmt.Errorf("TFTP to %s: %w", t.peer, err)
			}
		}
		deadline := time.Now().Add(r.scaled(waits[try]))
		for again := true; again; {
			n, from, err := readUntil(ctx, conn, buf, deadline)
			if err != nil {
				return nil, err
			}
			if n < 0 {
				break
			}
			if from.Addr() != server || t.next > 0 && from != t.peer || n < 4 {
				continue
			}
			done, progress, err := t.handle(buf[:n], from)
			if done || err != nil {
				return t.sink.close(), err
			}
			if progress {
				try, again = -1, false
			}
		}
		if try++; try == len(waits) {
			return nil, stopf("PXE-E18: server response timeout: %s after %d bytes, asked %d times", f.URL, f.Bytes, len(waits))
		}
	}
}

// transfer is the state of one.
type transfer struct {
	*run
	f      *Fetch
	conn   udpConn
	peer   netip.AddrPort
	asked  []string
	sink   *sink
	limit  int64
	last   []byte // what is sent again when no answer comes; nil: nothing is due
	next   int    // block that is due; 0: no answer yet
	block  int
	window int
}

// handle takes one packet of the server's. With progress, t.last is to be sent now.
func (t *transfer) handle(p []byte, from netip.AddrPort) (done, progress bool, err error) {
	switch op, rest := p[1], p[2:]; {
	case op == opError:
		t.f.Failed = fmt.Sprintf("error %d, %s", binary.BigEndian.Uint16(rest), untilNUL(rest[2:]))
		t.note(false, from, nil, "TFTP %s", t.f.Failed)
		return true, false, nil
	case op == opOACK && t.next == 0:
		t.note(false, from, nil, "TFTP OACK %s", strings.ReplaceAll(strings.Trim(string(rest), "\x00"), "\x00", " "))
		if err := t.options(rest); err != nil {
			return false, false, err
		}
		t.peer, t.next = from, 1
		if t.limit < 0 {
			return true, false, t.abort("User aborted the file transmission")
		}
		t.last = []byte{0, opAck, 0, 0}
		return false, true, nil
	case op == opData:
		return t.data(binary.BigEndian.Uint16(rest), rest[2:], from)
	}
	return false, false, nil
}

func (t *transfer) data(number uint16, data []byte, from netip.AddrPort) (done, progress bool, err error) {
	if t.next == 0 { // the server knows no options
		t.peer, t.next = from, 1
		t.note(false, from, nil, "TFTP data, no options")
		if t.limit < 0 {
			return true, false, t.abort("User aborted the file transmission")
		}
	}
	if number != uint16(t.next) {
		// A gap in a window is told by acknowledging what came before it (RFC 7440 section 4). EDK2 acknowledges each
		// block again that comes twice (NetworkPkg, Mtftp4Rrq.c, Mtftp4RrqHandleData), which a server must not answer with
		// the next block once more (RFC 1123 section 4.2.3.1, the sorcerer's apprentice).
		ahead := number-uint16(t.next) < 1<<15
		return false, t.family() == edk2 || ahead && t.window > 1, nil
	}
	if len(data) > t.block {
		return false, false, stopf("%s: block %d has %d bytes, and %d were agreed on", t.f.URL, t.next, len(data), t.block)
	}
	if t.family() == pi && t.next > 65535 {
		return false, false, stopf("%s: after %d bytes the number of the next block does not fit (rpi-eeprom#720)", t.f.URL, t.f.Bytes)
	}
	if _, err := t.sink.Write(data); err != nil {
		return false, false, err
	}
	ended := len(data) < t.block
	t.last = []byte{0, opAck, byte(number >> 8), byte(number)}
	due := ended || t.next%t.window == 0
	t.next++
	if ended {
		t.note(false, from, nil, "TFTP end of file, %d bytes", t.f.Bytes)
		_, err := t.conn.WriteToUDPAddrPort(t.last, t.peer)
		return true, false, err
	}
	if t.limit > 0 && t.f.Bytes >= t.limit {
		return true, false, t.abort("enough")
	}
	return false, due, nil
}

// abort tells the server that no more is wanted.
func (t *transfer) abort(why string) error {
	code := byte(8)
	if t.family() == pi {
		code, why = 0, "Early terminate"
	}
	t.note(true, t.peer, nil, "TFTP error %d, %s", code, why)
	_, err := t.conn.WriteToUDPAddrPort(append(append([]byte{0, opError, 0, code}, why...), 0), t.peer)
	return err
}

// options reads an OACK, which may only hold what was asked for.
func (t *transfer) options(b []byte) error {
	list := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	for i := 0; i+1 < len(list); i += 2 {
		name, asked := strings.ToLower(list[i]), ""
		for j := 0; j+1 < len(t.asked); j += 2 {
			if t.asked[j] == name {
				asked = t.asked[j+1]
			}
		}
		value, err := strconv.Atoi(list[i+1])
		limit, _ := strconv.Atoi(asked)
		switch {
		case asked == "" || err != nil || name != "tsize" && (value < 1 || value > limit):
			return stopf("%s: the server answers option %s=%s; asked was %v", t.f.URL, list[i], list[i+1], t.asked)
		case name == "blksize":
			t.block = value
		case name == "windowsize":
			t.window = value
		case name == "tsize":
			t.f.Size = int64(value)
		}
	}
	return nil
}
