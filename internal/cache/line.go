package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// line is a connection that a machine asks for one thing after another on. net/http wakes two more goroutines for
// each, and writes the headers by themselves: with a thousand small NARs that is a third of the processor time, and
// nix waits for it.
type line struct {
	net.Conn
	raw     syscall.RawConn // nil: it is no socket
	header  http.Header
	head    bytes.Buffer // status and headers that are not sent yet
	begun   bool         // the answer has a status
	bodied  bool         // and may have a body
	chunked bool         // whose length is not known beforehand (RFC 9112 section 7.1)
}

const (
	lineIdle    = time.Minute // as the servers of package pxe
	lineRequest = 64 << 10    // bytes of a request at most
)

// take has the rest of a connection, if it is one of HTTP/1.1 that can be taken, and answers what is asked on it,
// beginning with r, for as long as that is for the share.
func (s *Share) take(w http.ResponseWriter, r *http.Request) bool {
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 {
		return false
	}
	conn, pending, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	defer conn.Close()

	defer context.AfterFunc(r.Context(), func() { conn.Close() })() // the server ends

	early, _ := pending.Reader.Peek(pending.Reader.Buffered())
	limit := &io.LimitedReader{R: io.MultiReader(bytes.NewReader(early), conn)}
	in := bufio.NewReader(limit)
	l := &line{Conn: conn, header: make(http.Header)}
	if tcp, ok := conn.(*net.TCPConn); ok {
		l.raw, _ = tcp.SyscallConn()
	}
	for err == nil && s.cache.find(r.URL.Path) == s {
		l.begun = false
		l.bodied = r.Method != http.MethodHead
		l.chunked = false
		clear(l.header)
		s.answer(l, r)
		if l.chunked {
			l.head.WriteString("0\r\n\r\n")
		}
		if _, err = l.flush(nil); err != nil || r.Close || r.ContentLength != 0 {
			break
		}

		limit.N = lineRequest
		if err = conn.SetReadDeadline(time.Now().Add(lineIdle)); err == nil {
			r, err = readRequest(in)
		}
	}

	return true
}

// readRequest reads a request without a body, and of its headers those that say something here: for two thousand small
// requests, http.ReadRequest would be a tenth of what a copy costs.
func readRequest(in *bufio.Reader) (*http.Request, error) {
	r := &http.Request{URL: new(url.URL)}
	for {
		text, err := in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}

		text = bytes.TrimRight(text, "\r\n")
		name, value, _ := bytes.Cut(text, []byte(":"))
		switch {
		case r.Method == "":
			fields := strings.Split(string(text), " ")
			if len(fields) != 3 || fields[2] != "HTTP/1.1" || !strings.HasPrefix(fields[1], "/") {
				return nil, errors.New("no request")
			}
			r.Method, r.URL.Path = fields[0], fields[1]
		case len(text) == 0:
			return r, nil
		case bytes.EqualFold(name, []byte("Range")):
			r.Header = http.Header{"Range": {string(bytes.TrimSpace(value))}}
		case bytes.EqualFold(name, []byte("Connection")):
			r.Close = r.Close || bytes.EqualFold(bytes.TrimSpace(value), []byte("close"))
		case bytes.EqualFold(name, []byte("Content-Length")), bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return nil, errors.New("a request with a body")
		}
	}
}

func (l *line) Header() http.Header { return l.header }

func (l *line) WriteHeader(status int) {
	if l.begun {
		return
	}
	l.begun = true
	if l.chunked = l.header.Get("Content-Length") == "" && l.bodied; l.chunked {
		l.header.Set("Transfer-Encoding", "chunked")
	}
	l.head.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	for name, values := range l.header {
		l.head.WriteString(name + ": " + values[0] + "\r\n")
	}
	l.head.WriteString("\r\n")
}

// Write sends the headers in one piece with the first bytes of the body.
func (l *line) Write(p []byte) (int, error) {
	l.WriteHeader(http.StatusOK)
	switch {
	case !l.bodied || len(p) == 0:
		return len(p), nil
	case l.chunked:
		fmt.Fprintf(&l.head, "%x\r\n", len(p))
		defer l.head.WriteString("\r\n")
	}
	return l.flush(p)
}

// flush sends the headers that are left, and p, and returns how much of p was sent.
func (l *line) flush(p []byte) (int, error) {
	all := net.Buffers{l.head.Bytes(), p}
	n, err := all.WriteTo(l.Conn)
	n -= int64(l.head.Len())
	l.head.Reset()
	return int(max(0, n)), err
}

// sendFile sends a part of a file, past package os as all of it; see [writeNAR].
func (l *line) sendFile(fd int, from, size int64) (done int64, err error) {
	if l.raw == nil || l.chunked {
		return 0, errors.ErrUnsupported
	}
	if _, err := l.flush(nil); err != nil {
		return 0, err
	}

	closed := l.raw.Write(func(to uintptr) bool {
		for done < size && (err == nil || err == unix.EINTR) {
			var n int
			n, err = unix.Sendfile(int(to), fd, &from, int(size-done)) // which moves from on
			done += int64(max(0, n))
			if n == 0 {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != unix.EAGAIN {
			return true
		}

		err = nil
		return false
	})
	switch {
	case closed != nil:
		return done, closed
	case err == unix.EINVAL: // the store's file system cannot do it
		return done, errors.ErrUnsupported
	case err == nil, err == io.ErrUnexpectedEOF, err == unix.EIO:
		return done, err
	}

	return done, &net.OpError{Op: "sendfile", Net: "tcp", Err: err}
}
