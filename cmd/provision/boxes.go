package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"provision/disko"
	"provision/internal/text"
)

// Styles of a cell: parameters of SGR (ECMA-48).
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	cyan   = "36"
	alarm  = "1;97;41" // bold white on red
	gutter = 6         // columns to the left of the boxes, for a label
)

// diskCell is a character of a picture, with its style.
type diskCell struct {
	char  rune
	style string
}

// canvas is what a picture is drawn on. It grows downwards.
type canvas struct {
	width int // in columns
	rows  [][]diskCell
}

// put writes text at a position. What is beyond the width is cut off.
func (c *canvas) put(x, y int, text, style string) {
	for len(c.rows) <= y {
		c.rows = append(c.rows, slices.Repeat([]diskCell{{char: ' '}}, c.width))
	}
	for _, char := range text {
		if x < c.width {
			c.rows[y][x] = diskCell{char, style}
		}
		x++
	}
}

// print writes the rows without trailing blanks.
func (c *canvas) print(w io.Writer, color bool) {
	for _, row := range c.rows {
		for len(row) > 0 && row[len(row)-1].char == ' ' && (!color || row[len(row)-1].style == "") {
			row = row[:len(row)-1]
		}
		var b strings.Builder
		style := ""
		for _, cell := range row {
			if color && cell.style != style {
				if style != "" {
					b.WriteString(text.Control("\x1b[0m"))
				}
				if style = cell.style; style != "" {
					b.WriteString(text.Control("\x1b[" + style + "m"))
				}
			}
			b.WriteRune(cell.char)
		}

		if style != "" {
			b.WriteString(text.Control("\x1b[0m"))
		}
		fmt.Fprintln(w, b.String())
	}
}

// progressBar is a row of boxes for the segments of a disk, drawn to scale as far as their texts allow.
type progressBar struct {
	label    string
	segments []disko.Segment
	lost     bool // the segments are erased

	edges []int          // columns of the vertical lines between the boxes
	texts [][]styledLine // text of each box
}

// newBar returns the bar for the state after the plan.
func newBar(segments []disko.Segment) progressBar {
	if slices.ContainsFunc(segments, func(s disko.Segment) bool { return !s.Kept && s.What != "free" }) {
		return progressBar{label: "new", segments: segments}
	}
	return progressBar{label: "kept", segments: segments}
}

// styledLine is a line of text in a box, followed by where something is mounted.
type styledLine struct{ text, where, style string }

// bars draws one or two bars, the second below the first. Bars without segments are left out.
func (c *canvas) bars(list ...progressBar) {
	list = slices.DeleteFunc(list, func(b progressBar) bool { return len(b.segments) == 0 })
	if len(list) == 0 {
		return
	}
	var above []int
	for i := range list {
		b := &list[i]
		b.arrange(gutter, c.width-1)
		c.border(above, b.edges, i == 0 && b.lost)
		c.boxes(b)
		above = b.edges
	}

	c.border(above, nil, false)
	c.put(0, len(c.rows), "", "")
}

// border draws the line that closes the boxes above and opens those below.
func (c *canvas) border(above, below []int, lost bool) {
	edges := append(slices.Clone(above), below...)
	first, last := slices.Min(edges), slices.Max(edges)
	y := len(c.rows)
	for x := first; x <= last; x++ {
		i := 0
		for bit, yes := range []bool{slices.Contains(above, x), slices.Contains(below, x), x > first, x < last} {
			if yes {
				i |= 1 << bit
			}
		}
		// The index says which lines meet there: 1 above, 2 below, 4 left, 8 right.
		c.put(x, y, string([]rune(" │││ ┘┐┤ └┌├─┴┬┼")[i]), lineStyle(lost))
	}
}

// lineStyle returns the style of the lines of a bar.
func lineStyle(lost bool) string {
	if lost {
		return red
	}
	return faint
}

// boxes draws the boxes of a bar, with its label at the left.
func (c *canvas) boxes(b *progressBar) {
	y, height := len(c.rows), 0
	for _, text := range b.texts {
		height = max(height, len(text))
	}
	style := bold
	if b.lost {
		style = "1;" + red
	}
	c.put(gutter-1-len(b.label), y, b.label, style)
	for row := range height {
		for i, text := range b.texts {
			x, end := b.edges[i], b.edges[i+1]
			c.put(x, y+row, "│", lineStyle(b.lost))
			c.put(end, y+row, "│", lineStyle(b.lost))
			at := x + 2
			if row < len(text) {
				l := text[row]
				c.put(at, y+row, l.text, l.style)
				at += len([]rune(l.text))
				c.put(at, y+row, l.where, cyan)
				at += len([]rune(l.where)) + 1
			}

			if b.lost && at < end-1 && b.segments[i].What != "free" {
				c.put(at, y+row, strings.Repeat("░", end-1-at), red)
			}
		}
	}
}

// arrange computes the positions of the boxes: each is as wide as its size demands, but wide enough for its text. Boxes
// without a known size share the rest.
func (b *progressBar) arrange(left, right int) {
	wide := 12 // most columns that a text gets in a box that is too small for it
	if len(b.segments) > 3 {
		wide = 9 // enough for "931.5 GiB"
	}
	if len(b.segments)*(wide+3) > right-left {
		b.list()
	}
	n := len(b.segments)
	room := right - left - 3*n // each box has a line, and a blank on both sides of its text
	sizes := make([]float64, n)
	minimums := make([]int, n)
	sum := 0.0
	unknown := 0
	for i, s := range b.segments {
		sizes[i] = float64(s.Size)
		sum += sizes[i]
		if s.Size == 0 {
			unknown++
		}
		for _, l := range b.describe(s, wide) {
			minimums[i] = min(wide, max(minimums[i], len([]rune(l.text+l.where))))
		}
	}

	for i := range sizes {
		if sizes[i] == 0 {
			sizes[i] = max(1, 3*sum/float64(unknown))
		}
	}

	widths := share(room, sizes, minimums)
	b.edges, b.texts = []int{left}, nil
	for i, s := range b.segments {
		b.edges = append(b.edges, b.edges[i]+widths[i]+3)
		b.texts = append(b.texts, b.describe(s, widths[i]))
	}
}

// list replaces a row with too many boxes by a single box with one line for each segment.
func (b *progressBar) list() {
	all := disko.Segment{Children: slices.Clone(b.segments)}
	for i := range all.Children {
		s := &all.Children[i]
		s.Name = cmp.Or(s.Name, strings.TrimPrefix(s.Device, "/dev/"))
	}
	b.segments = []disko.Segment{all}
}

// share divides room in proportion to sizes, but gives each at least its minimum.
func share(room int, sizes []float64, minimums []int) []int {
	widths, fixed := make([]int, len(sizes)), make([]bool, len(sizes))
	for again := true; again; {
		again = false
		left, sum := float64(room), 0.0
		for i := range sizes {
			if fixed[i] {
				left -= float64(minimums[i])
			} else {
				sum += sizes[i]
			}
		}

		done := 0.0 // rounding errors are carried over, so that the widths add up
		for i := range sizes {
			widths[i] = minimums[i]
			if fixed[i] {
				continue
			}
			from := int(left*done/sum + 0.5)
			done += sizes[i]
			if widths[i] = int(left*done/sum+0.5) - from; widths[i] < minimums[i] {
				fixed[i], again = true, true
			}
		}
	}

	return widths
}
