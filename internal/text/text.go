// Package text limits the output of machines, flakes and commands, and makes it safe for a terminal.
package text

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// sequences matches complete terminal control sequences (ECMA-48: CSI, OSC). If only their control characters were
// removed, the letters would remain.
var sequences = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x{9d})[^\x07\x1b\x{9c}\n]*(?:\x07|\x1b\\|\x{9c})`)

// Plain returns a text without what a terminal would interpret and without what a reader cannot see: control characters
// other than newline and tab, marks that change the direction of writing, and characters without width. Other kinds of
// spaces become plain spaces.
func Plain(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Zs, r):
			return ' '
		case hidden(r):
			return -1
		}
		return r
	}, sequences.ReplaceAllString(s, ""))
}

// hidden reports whether a character must not be printed as it is. In unicode.IsPrint, newline and tab do not count as
// printable, but fillers and variation selectors do, as they are letters and marks in Unicode.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) && r != '\n' && r != '\t' ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// JSON returns a JSON text in which the characters that Plain removes are written as escapes, so that nothing is lost.
func JSON(data string) string {
	var b strings.Builder
	for _, r := range data {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}

	return b.String()
}

// Short returns at most most bytes of a text, plus a short note: from a longer text it keeps the beginning and the end.
func Short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	half := most / 2
	start, end := s[:half], s[len(s)-half:]
	return strings.ToValidUTF8(start, "") + fmt.Sprintf(" … (%d bytes are left out) … ", len(s)-2*half) + strings.ToValidUTF8(end, "")
}
