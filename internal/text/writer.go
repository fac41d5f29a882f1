package text

import (
	"crypto/rand"
	"io"
	"strings"
	"unicode/utf8"
)

// own marks the control sequences of this program. It is random, so that no other output can contain it.
var own = "\x1b" + rand.Text()

// Control returns a control sequence, such as "\x1b[31m" or "\r", in the form that a [Writer] lets pass.
func Control(sequence string) string { return own + sequence + own }

// Writer passes on what is written to it after [Plain], except for this program's own control sequences.
type Writer struct {
	To io.Writer

	rest []byte // the beginning of an incomplete character
}

// Write implements [io.Writer].
func (w *Writer) Write(p []byte) (int, error) {
	data := append(w.rest, p...)
	whole := len(data)
	for i := max(0, whole-utf8.UTFMax+1); i < whole; i++ {
		if utf8.RuneStart(data[i]) && !utf8.FullRune(data[i:]) {
			whole = i
			break
		}
	}

	var b strings.Builder
	for i, part := range strings.Split(string(data[:whole]), own) {
		if i%2 == 0 {
			part = Plain(part)
		}
		b.WriteString(part)
	}

	w.rest = append([]byte(nil), data[whole:]...)
	if _, err := io.WriteString(w.To, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
