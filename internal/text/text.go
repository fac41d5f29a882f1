// Package text bounds what machines, flakes and commands say, and makes it fit for a terminal.
package text

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// sequences are terminal control sequences as a whole (ECMA-48: CSI, OSC), of which otherwise the letters would stay.
var sequences = regexp.MustCompile(`(?:\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x{9d})[^\x07\x1b\x{9c}\n]*(?:\x07|\x1b\\|\x{9c})`)

// Plain is a text without what a terminal would obey and without what a reader cannot see: control characters but
// newline and tab, marks that change the direction of writing, and characters without a width.
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

// hidden reports whether a character is not to be printed as it is. IsPrint knows neither fillers and variation
// selectors, which are letters and marks to Unicode, nor newline and tab.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) && r != '\n' && r != '\t' ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// JSON is a JSON text in which characters that Plain takes away are written as escapes, so that nothing is lost.
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

// Short is a text of at most so many bytes and a few words: of a longer one, its start and its end.
func Short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	half := most / 2
	start, end := s[:half], s[len(s)-half:]
	return strings.ToValidUTF8(start, "") + fmt.Sprintf(" … (%d bytes are left out) … ", len(s)-2*half) + strings.ToValidUTF8(end, "")
}
