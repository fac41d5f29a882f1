package nix

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"provision/internal/text"
)

var versionNumber = regexp.MustCompile(`(\d+)\.(\d+)`)

// kept is how many lines of a command's messages are remembered from its start, and as many from its end.
const kept = 500

// lines are what a command said: all of it, or its start and its end.
type lines struct {
	first, last []string
	left        int // out between them
}

func (l *lines) add(line string) {
	line = text.Plain(line)
	if len(l.first) < kept {
		l.first = append(l.first, line)
		return
	}
	l.last = append(l.last, line)
	if len(l.last) > kept {
		l.last = l.last[1:]
		l.left++
	}
}

func (l *lines) all() []string {
	all := append([]string{}, l.first...)
	if l.left > 0 {
		all = append(all, leftOut(l.left))
	}
	return append(all, l.last...)
}

func leftOut(n int) string { return fmt.Sprintf("… (%d lines are left out)", n) }

// Of a long error so many lines are shown.
const (
	showFirst = 10
	showLast  = 20
)

// excerpt is what a person needs of a command's messages: of nix's error, the first and the last lines, without what
// it tells of the expression that we gave it.
func excerpt(said []string) []string {
	words := fromError(withoutOurs(said))
	if len(words) <= showFirst+showLast+1 {
		return words
	}
	left := len(words) - showFirst - showLast
	return append(append(append([]string{}, words[:showFirst]...), leftOut(left)), words[len(words)-showLast:]...)
}

// chatter is what nix tells of its work before an error.
var chatter = regexp.MustCompile(`^(warning: |copying |fetching |unpacking |evaluating |building |these? |this |  /nix/store/|• |    '|      follows )`)

// fromError leaves out what nix told before its error, but for the last words of a program that it ran.
func fromError(words []string) []string {
	at := slices.IndexFunc(words, func(line string) bool { return strings.HasPrefix(line, "error:") })
	if at < 0 {
		return words
	}
	before := slices.DeleteFunc(slices.Clone(words[:at]), chatter.MatchString)
	return append(before[max(0, len(before)-showFirst):], words[at:]...)
}

var (
	// A trace's entry, as nix prints it since 2.19: "… while evaluating the attribute 'x'", indented.
	traceEntry = regexp.MustCompile(`^ +… `)
	// Where it is, if that is in an expression of the command line: "at «string»:7:6:", or "(string)" before 2.9.
	ourPlace = regexp.MustCompile(`^ *at («string»|\(string\)|«command line»):\d+:\d+:?$`)
	// A line of source with its number, or the mark below it.
	sourceLine = regexp.MustCompile(`^ *\d*\| `)
	// What is of no use to somebody who did not call nix.
	useless = regexp.MustCompile(`^ *(\(use '--show-trace' |Pass '--accept-flake-config' |\(stack trace truncated; use '--show-trace')`)
)

// withoutOurs drops the entries of a trace that are in our own expression.
func withoutOurs(said []string) []string {
	var out []string
	entry := -1   // where the trace's entry begins in out that is read
	ours := false // this entry's place is ours: so are the lines of source that follow
	for _, line := range said {
		switch {
		case strings.TrimSpace(line) == "" || useless.MatchString(line):
			continue
		case traceEntry.MatchString(line):
			entry = len(out)
			ours = false
		case ourPlace.MatchString(line):
			if entry >= 0 {
				out = out[:entry]
			}
			entry = -1
			ours = true
			continue
		case ours && sourceLine.MatchString(line):
			continue
		case !sourceLine.MatchString(line):
			ours = false
			if !strings.HasPrefix(strings.TrimSpace(line), "at ") {
				entry = -1
			}
		}
		out = append(out, line)
	}
	return out
}
