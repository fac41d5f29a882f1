package text

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// MaxLine is how much of a line is kept, in bytes. nix may write a whole error message as one line.
const MaxLine = 16 << 10

// Lines is a writer that passes on what is written to it line by line. Empty lines are skipped, and lines are cut off
// after MaxLine bytes.
type Lines struct {
	To func(line string)

	line []byte // the current line, which has not ended
}

// Write implements [io.Writer]. It never fails.
func (l *Lines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		l.line = append(l.line, part[:min(len(part), MaxLine-len(l.line))]...)
		if ended {
			l.End()
		}
		rest = after
	}
	return len(p), nil
}

// End passes on the last line, if that had no newline.
func (l *Lines) End() {
	line := strings.ToValidUTF8(strings.TrimRight(string(l.line), "\r"), "")
	l.line = l.line[:0]
	if line != "" {
		l.To(line)
	}
}

// Limit is a writer that passes on at most Most bytes. A write that would exceed them is discarded, like all later
// ones. It calls Full for each of these; Full has to stop the process that writes.
type Limit struct {
	To   io.Writer
	Most int // bytes
	Full func(error)

	used int // bytes
	over bool
}

// Write implements [io.Writer].
func (l *Limit) Write(p []byte) (int, error) {
	l.over = l.over || len(p) > l.Most-l.used
	if l.over {
		l.Full(fmt.Errorf("printed more than %d MiB, and was stopped", l.Most>>20))
		return len(p), nil
	}
	l.used += len(p)
	return l.To.Write(p)
}

// ReadFrom implements [io.ReaderFrom].
func (l *Lines) ReadFrom(r io.Reader) (int64, error) { return pour(l, r) }

// ReadFrom implements [io.ReaderFrom].
func (l *Limit) ReadFrom(r io.Reader) (int64, error) { return pour(l, r) }

// pour copies with a buffer that grows as needed: a thousand commands may run at the same time, and most of them print
// little.
func pour(w io.Writer, r io.Reader) (n int64, err error) {
	for buf := make([]byte, 512); ; {
		got, readErr := r.Read(buf)
		n += int64(got)
		if _, err = w.Write(buf[:got]); err == nil {
			err = readErr
		}
		switch {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		case got == len(buf) && got < 32<<10:
			buf = make([]byte, 2*got)
		}
	}
}
