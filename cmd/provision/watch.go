package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/text"
)

// watchCommand is `provision watch`.
func watchCommand(daemon *api.Client) *cobra.Command {
	return &cobra.Command{
		Use:   "watch [HOST]",
		Short: "follow installs as they happen",
		Long: "Follow installs as they happen: bars on a terminal, a line per event elsewhere.\nWith " +
			"a HOST, it ends when that host is installed or has failed, or its dry run is done.",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			host := ""
			if len(args) == 1 {
				host = args[0]
				if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(host, ""), nil, new(api.Status)); err != nil {
					return err
				}
			}

			r, err := daemon.Do(c.Context(), http.MethodGet, api.WatchPath(host, 0, host != ""), nil)
			if err != nil {
				return err
			}

			show := plainView(c.OutOrStdout())
			if terminalOf(c.OutOrStdout()) != nil && os.Getenv("TERM") != "dumb" {
				show = newScreen(c.OutOrStdout()).show
			}
			result := errors.New("the server stopped; the installs go on when it is back")
			err = api.Lines(c.Context(), r, func(n api.News) bool {
				show(n)

				// Replayed events come with the present status, so only the newest event ends the command.
				current := n.Event == nil || n.Event.Number == n.Status.Event
				ends := []hosts.State{hosts.StateInstalled, hosts.StateRehearsed, hosts.StateFailed}
				if host == "" || !current || !slices.Contains(ends, n.Status.State) {
					if n.Gone && host != "" {
						result = errStatus{exitFailed, host + " was forgotten"}
						return false
					}
					return true
				}

				result = nil
				if n.Status.State == hosts.StateFailed {
					result = errStatus{exitFailed, ""}
				}
				return false
			})
			if c.Context().Err() != nil { // it was interrupted, which is how one leaves
				return nil
			}

			return cmp.Or(err, result)
		},
	}
}

// plainView prints a line for each event, and at every 10 % of a phase.
func plainView(w io.Writer) func(api.News) {
	tenth := make(map[string]int)
	return func(n api.News) {
		s := n.Status
		if n.Event != nil {
			fmt.Fprintln(w, eventLine(*n.Event, true))
			return
		}
		if step := s.Percent / 10; s.Progress.Total > 0 && tenth[s.Name+string(s.Phase)] < step {
			tenth[s.Name+string(s.Phase)] = step
			fmt.Fprintf(w, "%s  %-12s %s\n", time.Now().Format(time.TimeOnly), s.Name, progressWords(s))
		}
	}
}

// eventLine formats an event for people, without colours.
func eventLine(ev hosts.Event, withHost bool) string {
	what := string(ev.Kind)
	if ev.Phase != "" {
		what = string(ev.Phase) + " " + what
	}
	host := ""
	if withHost {
		host = fmt.Sprintf("%-12s ", ev.Host)
	}
	line := fmt.Sprintf("%s  %s%-19s", ev.Time.Local().Format(time.TimeOnly), host, what)
	if ev.Message != "" {
		line += " " + strings.ReplaceAll(ev.Message, "\n", "\n"+strings.Repeat(" ", 10))
	}
	return strings.TrimRight(line, " ")
}

// screen keeps one line for each host at the bottom of a terminal. Events scroll above them.
type screen struct {
	out   io.Writer
	color bool
	hosts map[string]api.Status
	rates map[string]*transferRate
	drawn int // number of these lines
}

// transferRate estimates the speed and the remaining time of a phase from its start.
type transferRate struct {
	phase hosts.Phase
	at    time.Time // when the phase was first seen
	done  int64     // progress at that time
}

// pace returns the units per second and the remaining time; both are zero until an estimate is possible.
func (r transferRate) pace(done, total int64) (perSecond float64, left time.Duration) {
	sec, moved := time.Since(r.at).Seconds(), float64(done-r.done)
	if sec < 1 || moved <= 0 {
		return 0, 0
	}
	perSecond = moved / sec
	return perSecond, time.Duration(float64(total-done) / perSecond * float64(time.Second)).Round(time.Second)
}

// newScreen returns an empty screen.
func newScreen(out io.Writer) *screen {
	return &screen{
		out:   out,
		color: os.Getenv("NO_COLOR") == "",
		hosts: make(map[string]api.Status),
		rates: make(map[string]*transferRate),
	}
}

// show updates the screen.
func (s *screen) show(n api.News) {
	var b strings.Builder
	if s.drawn > 0 {
		b.WriteString(text.Control(fmt.Sprintf("\x1b[%dA\r\x1b[J", s.drawn)))
	}
	if n.Event != nil {
		b.WriteString(s.paint(stateColor(n.Event.State), eventLine(*n.Event, true)) + "\n")
	}
	s.hosts[n.Status.Name] = n.Status
	if n.Gone {
		delete(s.hosts, n.Status.Name)
	}
	width, height := usualColumns, 24
	if columns, lines := terminalSize(s.out); columns > 0 {
		width, height = columns, lines
	}

	lines := s.lines(width, height)
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	s.drawn = len(lines)
	io.WriteString(s.out, b.String())
}

// lines are those of the hosts. What is drawn must not be higher than the terminal, which cannot go back to lines that
// have scrolled away: where there are too many hosts, those at which nothing happens are counted.
func (s *screen) lines(width, height int) (lines []string) {
	const above = 2 // the newest event, and the cursor's line
	names := slices.Sorted(maps.Keys(s.hosts))
	var counted []string
	if room := max(1, height-above); len(names) > room {
		slices.SortStableFunc(names, func(a, b string) int {
			return cmp.Compare(urgency(s.hosts[a].State), urgency(s.hosts[b].State))
		})
		counted = names[room-1:]
		names = slices.Sorted(slices.Values(names[:room-1]))
	}

	for _, name := range names {
		lines = append(lines, s.line(s.hosts[name], width))
	}
	if len(counted) > 0 {
		lines = append(lines, clip(s.countWords(counted), width))
	}
	return lines
}

// urgency orders hosts by how much their state is of interest while installs are watched; the least comes first.
func urgency(st hosts.State) int {
	return slices.Index([]hosts.State{hosts.StateFailed, hosts.StateInstalling, hosts.StateRebooting, hosts.StateLive,
		hosts.StateBooting, hosts.StateReady, hosts.StateRehearsed, hosts.StateInstalled}, st)
}

// countWords counts hosts by their states.
func (s *screen) countWords(names []string) string {
	count := make(map[hosts.State]int)
	for _, name := range names {
		count[s.hosts[name].State]++
	}
	var parts []string
	for _, st := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d %s", count[st], st))
	}
	return fmt.Sprintf("… and %d more: %s", len(names), strings.Join(parts, ", "))
}

// line returns the line of a host.
func (s *screen) line(st api.Status, width int) string {
	text := fmt.Sprintf("%-12s %-11s", st.Name, st.State)
	if st.Progress.Total == 0 || st.State == hosts.StateFailed || st.State == hosts.StateInstalled ||
		st.State == hosts.StateRehearsed {
		return s.paint(stateColor(st.State), clip(text+" "+detail(st), width))
	}

	// What is beside the bar takes 44 columns, and the speed 26.
	cells := min(30, max(0, width-70))
	full := cells * st.Percent / 100
	bar := strings.Repeat("█", full) + strings.Repeat("░", cells-full)
	text = fmt.Sprintf("%s %-10s %s %3d %%  %s", text, st.Phase, bar, st.Percent, s.speed(st))
	return s.paint(stateColor(st.State), clip(text, width))
}

// speed says how fast the phase goes and how long it will take, once an estimate is possible.
func (s *screen) speed(st api.Status) string {
	if st.Progress.Now != "" {
		return fmt.Sprintf("%d of %d %s: %s", st.Progress.Done, st.Progress.Total, st.Progress.Unit, st.Progress.Now)
	}
	r := s.rates[st.Name]
	if r == nil || r.phase != st.Phase || st.Progress.Done < r.done {
		s.rates[st.Name] = &transferRate{st.Phase, time.Now(), st.Progress.Done}
		return ""
	}
	perSecond, left := r.pace(st.Progress.Done, st.Progress.Total)
	if perSecond == 0 {
		return ""
	}
	if st.Progress.Unit == "bytes" {
		return fmt.Sprintf("%.1f MB/s, %s left", perSecond/1e6, left)
	}
	return fmt.Sprintf("%d of %d %s", st.Progress.Done, st.Progress.Total, st.Progress.Unit)
}

// clip cuts off a text after width characters.
func clip(s string, width int) string {
	if r := []rune(s); len(r) > width && width > 1 {
		return string(r[:width-1]) + "…"
	}
	return s
}

// stateColor returns the SGR parameter for a state.
func stateColor(st hosts.State) string {
	switch st {
	case hosts.StateInstalled, hosts.StateRehearsed:
		return "32" // green
	case hosts.StateFailed:
		return "31" // red
	case hosts.StateInstalling, hosts.StateRebooting:
		return "36" // cyan
	}
	return ""
}

func (s *screen) paint(color, text string) string {
	return paint(color, text, s.color && color != "")
}
