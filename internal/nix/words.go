package nix

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"provision/internal/text"
)

// versionNumber matches the version in the output of nix --version.
var versionNumber = regexp.MustCompile(`(\d+)\.(\d+)`)

// kept is how many lines of a command's messages are remembered from the beginning, and how many from the end.
const kept = 500

// lines are a command's messages: all of them, or the beginning and the end.
type lines struct {
	first, last []string
	left        int // number of lines dropped between them
}

// add adds a line, without control characters.
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

// all returns the lines, with a note where some were dropped.
func (l *lines) all() []string {
	all := append([]string{}, l.first...)
	if l.left > 0 {
		all = append(all, leftOut(l.left))
	}
	return append(all, l.last...)
}

// leftOut stands for n lines that are not shown.
func leftOut(n int) string { return fmt.Sprintf("… (%d lines are left out)", n) }

// How many lines of a long error are shown from its beginning and its end.
const (
	showFirst = 10
	showLast  = 20
)

// excerpt returns what a person needs of a command's messages: the first and the last lines of nix's error, without
// traces in the expression that provision passed to nix.
func excerpt(said []string) []string {
	words := fromError(withoutOurs(said))
	if len(words) <= showFirst+showLast+1 {
		return words
	}
	left := len(words) - showFirst - showLast
	return append(append(append([]string{}, words[:showFirst]...), leftOut(left)), words[len(words)-showLast:]...)
}

// chatter matches messages in which nix reports its work before an error.
var chatter = regexp.MustCompile(`^(warning: |copying |fetching |unpacking |evaluating |building |these? |this |  /nix/store/|• |    '|      follows )`)

// fromError returns the messages from nix's error on. Of the messages before it, it keeps the last ones that came from
// a program that nix ran.
func fromError(words []string) []string {
	at := slices.IndexFunc(words, func(line string) bool { return strings.HasPrefix(line, "error:") })
	if at < 0 {
		return words
	}
	before := slices.DeleteFunc(slices.Clone(words[:at]), chatter.MatchString)
	return append(before[max(0, len(before)-showFirst):], words[at:]...)
}

var (
	// An entry of a trace, as nix prints it since 2.19: "… while evaluating the attribute 'x'", indented.
	traceEntry = regexp.MustCompile(`^ +… `)
	// The place of an entry, if that is in an expression of the command line: "at «string»:7:6:", or "(string)" before
	// 2.9.
	ourPlace = regexp.MustCompile(`^ *at («string»|\(string\)|«command line»):\d+:\d+:?$`)
	// A line of source code with its number, or the mark below it.
	sourceLine = regexp.MustCompile(`^ *\d*\| `)
	// Advice that is of no use to somebody who did not call nix.
	useless = regexp.MustCompile(`^ *(\(use '--show-trace' |Pass '--accept-flake-config' |\(stack trace truncated; use '--show-trace')`)
)

// withoutOurs removes the entries of a trace that are in the expression that provision passed to nix.
func withoutOurs(said []string) []string {
	var out []string
	entry := -1   // index in out where the current entry of the trace begins; -1: none
	ours := false // the current entry is in our expression, so the lines of source code that follow are too
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
