package timeline

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
)

// Sizes in the picture, in pixels.
const (
	chartX, chartWidth = 110, 560
	rowHeight, top     = 24, 60
	svgWidth           = 1400
)

// SVG writes a Gantt chart as a self-contained SVG file, which follows the reader's colour scheme.
func (t Timeline) SVG(w io.Writer) error {
	b := new(bytes.Buffer)
	height := top + rowHeight*len(t.Phases) + 30
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13">
<style>
:root { color-scheme: light dark }
.page { fill: #fff } text { fill: #1f2328 } .dim { fill: #656d76 } .grid { stroke: #d0d7de } .failed { stroke: #cf222e; stroke-width: 2; stroke-dasharray: 4 2 }
.person { fill: #8c959f } .machine { fill: #bf8700 } .network { fill: #0969da } .server { fill: #1a7f37 } .queued { fill: #fff; opacity: .55 }
@media (prefers-color-scheme: dark) { .page { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #8d96a0 } .grid { stroke: #30363d } .queued { fill: #0d1117 } }
</style>
<rect class="page" width="100%%" height="100%%"/>
`, svgWidth, height, svgWidth, height)
	text := func(x, y float64, attributes, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f"%s>`, x, y, attributes)
		xml.EscapeText(b, []byte(s)) // writing to a buffer does not fail
		b.WriteString("</text>\n")
	}
	text(12, 24, ` font-weight="600" font-size="15"`, t.Host+": "+t.summary())
	legend := 860.0
	for _, side := range []Side{Person, Machine, Network, Server} {
		fmt.Fprintf(b, `<rect class="%s" x="%.0f" y="14" width="11" height="11" rx="2"/>`, side, legend)
		text(legend+16, 24, ` class="dim"`, string(side))
		legend += 78
	}

	whole := math.Max(t.Seconds, 0.001)
	x := func(s float64) float64 { return chartX + s/whole*chartWidth }
	step := gridStep(whole)
	for s := 0.0; s <= whole; s += step {
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x(s), x(s), top-6, height-24)
		text(x(s), float64(height-10), ` class="dim" text-anchor="middle" font-size="11"`, fmt.Sprintf("%g s", s))
	}

	for i, p := range t.Phases {
		y := float64(top + i*rowHeight)
		text(chartX-10, y+13, ` text-anchor="end"`, p.Name)
		class := string(p.Side)
		if p.Failed {
			class += " failed"
		}
		fmt.Fprintf(b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="16" rx="2"/>`, class, x(p.Start), y, math.Max(p.Seconds/whole*chartWidth, 2))
		if p.Queued > 0 {
			fmt.Fprintf(b, `<rect class="queued" x="%.1f" y="%.1f" width="%.1f" height="16"/>`, x(p.Start), y, p.Queued/whole*chartWidth)
		}
		text(chartX+chartWidth+14, y+13, ` class="dim"`, p.took()+", "+p.describe())
	}

	b.WriteString("</svg>\n")
	_, err := b.WriteTo(w)
	return err
}

// gridStep returns the distance of the grid lines in seconds: a round number, so that there are at most twelve of them.
func gridStep(whole float64) float64 {
	for _, step := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200} {
		if whole/step <= 12 {
			return step
		}
	}
	return math.Ceil(whole/12/86400) * 86400
}
