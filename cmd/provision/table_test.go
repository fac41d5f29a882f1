package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTable: where a terminal is too narrow for a table, nothing of it is cut off.
func TestTable(t *testing.T) {
	const detail = "copy: lost the installer; it goes on when the machine is back"
	status := func(width int) string {
		all := &rows{width: width, head: []string{"HOST", "STATE", "ADDRESS", "DETAIL"}}
		all.row("alpha", "ready", "", "switch it on")
		all.row("bravo", "installing", "10.0.0.104", detail)
		return all.String()
	}
	for _, tt := range []struct {
		name  string
		width int
		want  string
	}{
		{"no terminal", 0, `HOST   STATE       ADDRESS     DETAIL
alpha  ready                   switch it on
bravo  installing  10.0.0.104  copy: lost the installer; it goes on when the machine is back
`},
		{"the last column is wrapped", 60, `HOST   STATE       ADDRESS     DETAIL
alpha  ready                   switch it on
bravo  installing  10.0.0.104  copy: lost the installer; it
                               goes on when the machine is
                               back
`},
		{"the last column below", 40, `HOST   STATE       ADDRESS
alpha  ready
    switch it on
bravo  installing  10.0.0.104
    copy: lost the installer; it goes on
    when the machine is back
`},
		{"a column below", 24, `HOST   STATE
alpha  ready
    switch it on
bravo  installing
    address 10.0.0.104
    copy: lost the
    installer; it goes
    on when the machine
    is back
`},
	} {
		got := status(tt.width)
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		for line := range strings.Lines(got) {
			if tt.width > 0 && utf8.RuneCountInString(strings.TrimRight(line, "\n")) > tt.width {
				t.Errorf("%s: %q is too long", tt.name, line)
			}
		}
	}

	long := &rows{width: 30}
	long.row("error", "the first line is long\nthe second")
	if got, want := long.String(), "error  the first line is long\n       the second\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	one := &rows{}
	one.row("bravo", "failed")
	one.row("  error", "two\nlines")
	if got, want := one.String(), "bravo    failed\n  error  two\n         lines\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
