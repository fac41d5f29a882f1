package text

import (
	"bytes"
	"fmt"
	"strings"
)

// MaxLine is how much of a line is kept, in bytes.
const MaxLine = 4096

// Lines is a writer that hands on what is written to it line by line, without those that are empty. What of a line is
// past MaxLine is left out.
type Lines struct {
	To func(line string)

	line []byte // that has not ended
}

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

// End hands on a last line that had no newline.
func (l *Lines) End() {
	line := strings.ToValidUTF8(strings.TrimRight(string(l.line), "\r"), "")
	l.line = l.line[:0]
	if line != "" {
		l.To(line)
	}
}

// Buffer keeps what is written to it. Of what would make it larger than Most bytes it keeps nothing, but calls Full,
// which is to end whoever writes; it may be called several times.
type Buffer struct {
	Most int
	Full func(error)

	data []byte
}

func (b *Buffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > b.Most {
		b.Full(fmt.Errorf("printed more than %d MiB, and was stopped", b.Most>>20))
		return len(p), nil
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// Bytes is what was kept.
func (b *Buffer) Bytes() []byte { return b.data }
