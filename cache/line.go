package cache

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// line is a connection that a machine asks for one thing after another on. net/http wakes two more goroutines for each, and
// writes the headers by themselves: with a thousand small NARs that is a third of the processor time, and
// nix waits for it.
type line struct {
	net.Conn
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

// take has the rest of a connection, if it is one of HTTP/1.1 that can be taken, and answers what is asked on it, beginning
// with r, for as long as that is for the share.
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
	in := &io.LimitedReader{R: io.MultiReader(bytes.NewReader(early), conn)}
	reader := bufio.NewReader(in)
	l := &line{Conn: conn, header: make(http.Header)}
	for {
		l.begun, l.bodied, l.chunked = false, r.Method != http.MethodHead, false
		clear(l.header)
		s.answer(l, r)
		if l.chunked {
			l.head.WriteString("0\r\n\r\n")
		}
		if _, err := l.flush(nil); err != nil || r.Close || r.ContentLength != 0 {
			return true
		}
		in.N = lineRequest
		if conn.SetReadDeadline(time.Now().Add(lineIdle)) != nil {
			return true
		}
		if r, err = http.ReadRequest(reader); err != nil || s.cache.find(r.URL.Path) != s {
			return true
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
	fmt.Fprintf(&l.head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	l.header.Write(&l.head)
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

// ReadFrom is by sendfile, if it can be.
func (l *line) ReadFrom(r io.Reader) (int64, error) {
	if l.chunked {
		return io.Copy(struct{ io.Writer }{l}, r)
	}
	if _, err := l.flush(nil); err != nil {
		return 0, err
	}
	return io.Copy(l.Conn, r)
}
