package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// columnGap is between the columns of a table.
const columnGap = 2

// rows is a table for people. On a terminal that is too narrow for it nothing is cut off: the last column is wrapped,
// or what does not fit stands on lines of its own.
type rows struct {
	to    io.Writer
	width int // of the terminal; 0: it is no terminal, and lines may have any width
	head  []string
	all   [][]string
}

// table begins a table; no head: it has none.
func table(w io.Writer, head ...string) *rows {
	width, _ := terminalSize(w)
	return &rows{to: w, width: width, head: head}
}

func (t *rows) row(cells ...any) {
	line := make([]string, len(cells))
	for i, c := range cells {
		line[i] = fmt.Sprint(c)
	}
	t.all = append(t.all, line)
}

// Flush prints the table.
func (t *rows) Flush() error {
	_, err := io.WriteString(t.to, t.String())
	return err
}

func (t *rows) String() string {
	lines := t.all
	if len(t.head) > 0 {
		lines = append([][]string{t.head}, lines...)
	}
	if len(lines) == 0 {
		return ""
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			for part := range strings.Lines(cell) {
				widths[i] = max(widths[i], utf8.RuneCountInString(strings.TrimRight(part, "\n")))
			}
		}
	}

	// How many columns fit beside each other, and where the last of all begins.
	fits := 0
	at := 0
	for i, width := range widths {
		if i == fits && (t.width == 0 || at+width <= t.width) {
			fits++
		}
		at += width + columnGap
	}

	last := len(widths) - 1
	begins := at - widths[last] - columnGap // the last column
	room := t.width - begins

	var b strings.Builder
	if fits < last || fits == last && room < leastColumns/2 {
		t.stack(&b, lines, widths, max(1, fits))
		return b.String()
	}
	for _, line := range lines {
		cell := line[last]
		if fits == last {
			cell = wrap(cell, room)
		}
		cell = strings.ReplaceAll(cell, "\n", "\n"+strings.Repeat(" ", begins))
		b.WriteString(beside(append(slices.Clone(line[:last]), cell), widths) + "\n")
	}

	return b.String()
}

// stack prints so many columns beside each other, and below each line the rest, each with its column's name.
func (t *rows) stack(b *strings.Builder, lines [][]string, widths []int, fits int) {
	const indent = "    "
	for i, line := range lines {
		b.WriteString(beside(line[:fits], widths) + "\n")
		if i == 0 && len(t.head) > 0 {
			continue
		}
		for j, cell := range line[fits:] {
			if cell == "" {
				continue
			}
			if len(t.head) > 0 && fits+j < len(line)-1 { // the last column speaks for itself
				cell = strings.ToLower(t.head[fits+j]) + " " + cell
			}
			wrapped := wrap(cell, t.width-len(indent))
			b.WriteString(indent + strings.ReplaceAll(wrapped, "\n", "\n"+indent) + "\n")
		}
	}
}

// wrap breaks each line of a cell at so many columns.
func wrap(cell string, width int) string {
	var b strings.Builder
	for line := range strings.Lines(cell) {
		b.WriteString(reflow(strings.TrimLeft(line, " "), max(1, width)))
	}
	return strings.TrimRight(b.String(), "\n")
}

// beside is a line of a table.
func beside(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+columnGap))
		}
	}
	return strings.TrimRight(b.String(), " ")
}
