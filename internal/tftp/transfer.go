package tftp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"
)

// transfer is one file on its way to one client.
type transfer struct {
	Request
	client  netip.AddrPort
	file    File
	ctx     context.Context // ends when the server stops
	begun   time.Time       // zero: it waits
	reader  io.Reader       // of the file's content; nil: nothing was read yet
	sent    int64           // bytes of the file that were read to be sent
	readErr error           // why the file could not be read

	// Guarded by dispatcher.mu.
	asked    time.Time // when the client sent its request last
	repeated []byte    // the request, if it came again after the transfer began
	sharers  []sharer  // for which the transfer is counted
}

// conversation tells transfers apart. A second request in one conversation is a duplicate.
type conversation struct {
	client netip.AddrPort
	name   string
}

func (t *transfer) conversation() conversation {
	return conversation{t.client, t.Name}
}

// Read implements io.Reader: the file's content up to the size that the client was told.
func (t *transfer) Read(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, errStopping
	}
	rest := t.file.Size - t.sent
	if rest == 0 {
		return 0, io.EOF
	}

	if t.reader == nil { // not before it is needed: a transfer that waits holds no buffer
		t.reader = t.file.Content
		if !t.file.InMemory {
			t.reader = bufio.NewReaderSize(t.file.Content, readAhead)
		}
	}

	n, err := t.reader.Read(p[:min(int64(len(p)), rest)])
	t.sent += int64(n)
	if err == io.EOF && t.sent < t.file.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		t.readErr = err
		return n, errUnreadable
	}
	return n, nil
}

// outcome says in words how a transfer ended. name is the file's name as it may be logged.
func (t *transfer) outcome(name string, err error) string {
	took := time.Since(t.begun).Seconds()
	var byClient clientError
	switch {
	case err == nil:
		return fmt.Sprintf("sent %s whole: %d bytes, blksize %d, %.1f s", name, t.sent, t.blockBytes(), took)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("%s ended early: no answer from the client after %d bytes, %.1f s", name, t.sent, took)
	case t.Tsize && t.sent == 0 && errors.As(err, &byClient):
		return fmt.Sprintf("told the size of %s: %d bytes", name, t.file.Size)
	default:
		return fmt.Sprintf("%s ended early: %s; after %d bytes, %.1f s", name, printable(err.Error()), t.sent, took)
	}
}

// clientError is an ERROR packet of the client.
type clientError struct {
	code byte
	text string
}

func (e clientError) Error() string {
	return fmt.Sprintf("code=%d, error: %s", e.code, e.text)
}
