package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"provision/disko"
)

// drawPlan draws the disks of a plan to scale in width columns, with what is on them above what will be on them.
func drawPlan(w io.Writer, p *disko.Plan, width int, color bool) {
	c := &canvas{width: width}
	for _, d := range p.Disks {
		c.disk(d)
	}
	var list []disko.Segment
	for _, s := range p.Made {
		if s.Of == nil || s.What == "bind mount" {
			list = append(list, s)
			continue
		}
		c.made(s)
	}

	for _, s := range list {
		what, where := sentence(s)
		c.put(1, len(c.rows), what+" "+where, "")
	}

	if list != nil {
		c.put(0, len(c.rows), "", "")
	}
	c.print(w, color)
}

// disk draws a disk before and after the plan.
func (c *canvas) disk(d disko.Disk) {
	about := d.Device
	if d.Name != "" {
		about = d.Name + "  " + about
	}
	for _, s := range []string{d.Model, d.Serial, disko.Segment{Size: d.Size}.Amount()} {
		if s != "" {
			about += "  " + s
		}
	}

	before := d.Before
	switch {
	case before != nil:
	case d.Size == 0:
		before = []disko.Segment{{Name: "whatever is on it"}}
	case d.Content != "blank":
		before = []disko.Segment{{Name: d.Content, Size: d.Size}}
	}

	label := "now"
	badge := " KEPT "
	style := green
	switch {
	case d.Erased && before == nil:
		badge, style = " blank ", faint
	case d.Erased:
		label = "lost"
		badge = " ERASED "
		style = alarm
	}

	y := len(c.rows)
	c.put(1, y, clip(about, c.width-len(badge)-2), bold)
	c.put(c.width-len(badge), y, badge, style)
	after := newBar(d.After)
	if after.label == "kept" {
		before = nil // it is the same
	}
	c.bars(progressBar{label: label, segments: before, lost: d.Erased}, after)
}

// made draws something that is made of several devices, or that holds volumes.
func (c *canvas) made(s disko.Segment) {
	var of []string
	for _, device := range s.Of {
		of = append(of, device[strings.LastIndex(device, "/")+1:])
	}
	about := strings.TrimSpace(s.Name + "  " + s.What)
	if s.Size > 0 {
		about += "  " + s.Amount()
	}
	y := len(c.rows)
	c.put(1, y, about, bold)
	c.put(1+len([]rune(about))+2, y, clip("on "+strings.Join(of, " + "), c.width-len([]rune(about))-4), "")
	inside := s.Children
	if s.What != "volume group" && !strings.HasPrefix(s.What, "RAID") || len(inside) == 0 {
		inside = []disko.Segment{{Mountpoint: s.Mountpoint, Children: s.Children, Kept: s.Kept}}
	}
	c.bars(newBar(inside))
}

// describe returns the text for a segment, in lines of at most width columns.
func (b *progressBar) describe(s disko.Segment, width int) (lines []styledLine) {
	add := func(text, where, style string) {
		if b.lost {
			text += where
			where = ""
			style = red
		}

		text = clip(text, width)
		if room := width - len([]rune(text)); room > 1 {
			lines = append(lines, styledLine{text, clip(where, room), style})
		} else {
			lines = append(lines, styledLine{text, "", style})
		}
	}
	if s.What == "free" {
		return []styledLine{{clip("free", width), "", faint}, {clip(s.Amount(), width), "", faint}}
	}
	if name := cmp.Or(s.Name, strings.TrimPrefix(s.Device, "/dev/")); name != "" {
		add(name, "", bold)
	}
	what, many := s.What, s.Amount()
	if both := strings.TrimSpace(what + " " + many); len([]rune(both)) <= width {
		what, many = both, ""
	}
	for _, text := range []string{what, many} {
		if text != "" {
			add(text, "", "")
		}
	}

	if s.Mountpoint != "" {
		add("", "→ "+s.Mountpoint, "")
	}
	if s.Kept && b.label == "new" {
		add("kept", "", green)
	}
	inside := tree(s.Children, "")
	column := 0 // in which the arrows are
	for _, l := range inside {
		if l[1] != "" {
			column = max(column, len([]rune(l[0]))+1)
		}
	}

	for _, l := range inside {
		if l[1] != "" {
			l[0] = fmt.Sprintf("%-*s", column, l[0])
		}
		add(l[0], l[1], "")
	}

	return lines
}

// tree lists what is inside a segment: each line says what something is and where it is mounted.
func tree(list []disko.Segment, indent string) (lines [][2]string) {
	for i, s := range list {
		branch, below := "├ ", "│ "
		if i == len(list)-1 {
			branch, below = "└ ", "  "
		}
		what, where := sentence(s)
		if len(list) > 1 && s.Size > 0 { // a single child is as large as its parent
			what += " " + s.Amount()
		}
		lines = append(lines, [2]string{indent + branch + what, where})
		lines = append(lines, tree(s.Children, indent+below)...)
	}

	return lines
}

// sentence describes a segment in one line: what it is, and where it is mounted.
func sentence(s disko.Segment) (what, where string) {
	if s.Mountpoint != "" {
		where = "→ " + s.Mountpoint
	}
	switch {
	case s.Name != "" && (s.What == "subvolume" || s.What == "dataset"):
		return s.Name, where
	case s.Name != "":
		return s.Name + ": " + s.What, where
	}
	return strings.Join(append([]string{s.What}, s.Of...), " "), where
}
