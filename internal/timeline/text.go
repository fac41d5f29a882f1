package timeline

import (
	"fmt"
	"io"
	"strings"
	"time"

	"provision/hosts"
)

const barWidth = 30 // characters

// Text writes one line for each phase.
func (t Timeline) Text(w io.Writer) error {
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s, %s: %s\n", t.Host, t.Start.Format(time.DateTime), t.summary())
	for _, p := range t.Phases {
		fmt.Fprintf(b, "%9s %9s  %-10s  %s  %s\n", inSeconds(p.Start), p.took(), p.Name, p.bar(t.Seconds), p.describe())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary says, for people, how the install ended, or how long it has been running.
func (t Timeline) summary() string {
	took := inSeconds(t.Seconds)
	switch t.State {
	case hosts.StateInstalled, hosts.StateRehearsed, hosts.StateFailed:
		return fmt.Sprintf("%s after %s%s", t.State, took, t.longest())
	}
	return fmt.Sprintf("%s, for %s so far", t.State, took)
}

// longest names the longest phase in which nobody waited for a person or the build; empty if there is none.
func (t Timeline) longest() string {
	var most Phase
	for _, p := range t.Phases {
		if p.Side != Person && p.Name != Build && p.Seconds > most.Seconds {
			most = p
		}
	}
	if most.Name == "" {
		return ""
	}
	return fmt.Sprintf("; longest: %s, %s", most.Name, inSeconds(most.Seconds))
}

// took returns the duration of the phase, for people.
func (p Phase) took() string {
	s := inSeconds(p.Seconds)
	if p.Open {
		s += "…"
	}
	return s
}

// bar draws where the phase is within the whole install, in barWidth characters.
func (p Phase) bar(whole float64) string {
	from, to := 0, barWidth
	if whole > 0 {
		from = min(int(p.Start/whole*barWidth), barWidth-1)
		to = min(max(int((p.Start+p.Seconds)/whole*barWidth+0.5), from+1), barWidth)
	}
	mark := "█"
	if p.Failed {
		mark = "▒"
	}
	return strings.Repeat("·", from) + strings.Repeat(mark, to-from) + strings.Repeat("·", barWidth-to)
}

// describe says, for people, how much was sent, and what was waited for.
func (p Phase) describe() string {
	var b strings.Builder
	if p.Bytes > 0 {
		fmt.Fprintf(&b, "%s over %s", size(float64(p.Bytes)), strings.ToUpper(p.Over))
		if p.Rate > 0 {
			fmt.Fprintf(&b, " at %s/s", size(p.Rate))
		}
		if p.Name == Load {
			b.WriteString(" (the last file)")
		}
		b.WriteString("; ")
	}

	if p.Failed {
		b.WriteString("failed; ")
	}
	b.WriteString(p.For)
	if p.Queued >= 0.05 {
		fmt.Fprintf(&b, ", %s of it for its turn", inSeconds(p.Queued))
	}
	return b.String()
}

// inSeconds returns a duration in seconds for people.
func inSeconds(s float64) string {
	if s < 100 {
		return fmt.Sprintf("%.1f s", s)
	}
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

// size returns a number of bytes for people.
func size(n float64) string {
	for _, unit := range []string{"bytes", "kB", "MB"} {
		if n < 1000 {
			return strings.Replace(fmt.Sprintf("%.1f %s", n, unit), ".0 ", " ", 1)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.2f GB", n)
}
