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

// line is a connection over which a machine sends one request after another. net/http starts two more goroutines for
// each connection, and writes headers separately from bodies. For a thousand small NARs, that costs a third of the
// processor time, and nix waits for it.
type line struct {
	net.Conn
	raw     syscall.RawConn // nil: the connection is not a socket
	header  http.Header
	head    bytes.Buffer // status and headers that have not been sent yet
	begun   bool         // the response has a status
	bodied  bool         // the response may have a body
	chunked bool         // with chunked transfer coding, as its length is not known (RFC 9112 section 7.1)
}

const (
	lineIdle    = time.Minute // as for the servers in package pxe
	lineRequest = 64 << 10    // most bytes of a request
)

// take takes over the connection of an HTTP/1.1 request, if that is possible, and answers r and the requests that
// follow on the connection, as long as they are for this share. It returns false, without having answered, if the
// connection cannot be taken over.
func (s *Share) take(w http.ResponseWriter, r *http.Request) bool {
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 {
		return false
	}
	conn, pending, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	defer conn.Close()

	defer context.AfterFunc(r.Context(), func() { conn.Close() })() // closes the connection when the server ends

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

// readRequest reads a request without a body, and only those of its headers that matter here. With http.ReadRequest,
// two thousand small requests would cost a tenth of the processor time of a copy.
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

// Header implements [http.ResponseWriter].
func (l *line) Header() http.Header { return l.header }

// WriteHeader implements [http.ResponseWriter]. It only buffers the headers.
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

// Write sends the headers together with the first bytes of the body.
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

// flush sends the buffered headers and p, and returns how many bytes of p were sent.
func (l *line) flush(p []byte) (int, error) {
	all := net.Buffers{l.head.Bytes(), p}
	n, err := all.WriteTo(l.Conn)
	n -= int64(l.head.Len())
	l.head.Reset()
	return int(max(0, n)), err
}

// sendFile sends a part of a file by sendfile(2), without package os, as everything here; see [writeNAR].
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
			n, err = unix.Sendfile(int(to), fd, &from, int(size-done)) // advances from
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
	case err == unix.EINVAL: // the file system of the store does not support it
		return done, errors.ErrUnsupported
	case err == nil, err == io.ErrUnexpectedEOF, err == unix.EIO:
		return done, err
	}

	return done, &net.OpError{Op: "sendfile", Net: "tcp", Err: err}
}
