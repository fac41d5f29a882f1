package installer

import (
	"strings"

	"provision/internal/text"
)

// tail keeps the last lines of a command's output.
type tail []string

func (t *tail) add(line string) {
	const most = 20
	*t = append(*t, line)
	if len(*t) > most {
		*t = (*t)[len(*t)-most:]
	}
}

// String is the lines behind a colon, or nothing.
func (t tail) String() string {
	if len(t) == 0 {
		return ""
	}
	return text.Plain(":\n  " + strings.Join(t, "\n  "))
}
