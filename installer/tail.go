package installer

import (
	"strings"

	"provision/internal/text"
)

// lastLines keeps the last lines of a command's output.
type lastLines []string

func (t *lastLines) add(line string) {
	const most = 20
	*t = append(*t, line)
	if len(*t) > most {
		*t = (*t)[len(*t)-most:]
	}
}

// String is the lines behind a colon, or nothing.
func (t lastLines) String() string {
	if len(t) == 0 {
		return ""
	}
	return text.Plain(":\n  " + strings.Join(t, "\n  "))
}
