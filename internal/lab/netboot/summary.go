package netboot

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Latency is how long a stage took over many boots. Tries above 1 means that some machine's first timeout ran out.
type Latency struct {
	Stage            string
	Count            int
	Median, P99, Max time.Duration
	Tries            int // the most
}

// Latencies sums up many boots, stage by stage in the order in which they were first seen.
func Latencies(results []Result) []Latency {
	var all []Latency
	took := map[string][]time.Duration{}
	for _, r := range results {
		for _, t := range r.Timing {
			i := slices.IndexFunc(all, func(l Latency) bool { return l.Stage == t.Stage })
			if i < 0 {
				i = len(all)
				all = append(all, Latency{Stage: t.Stage})
			}
			all[i].Tries = max(all[i].Tries, t.Tries)
			took[t.Stage] = append(took[t.Stage], t.Took)
		}
	}
	for i, l := range all {
		d := took[l.Stage]
		slices.Sort(d)
		all[i].Count, all[i].Median, all[i].P99, all[i].Max = len(d), d[len(d)/2], d[(len(d)-1)*99/100], d[len(d)-1]
	}
	return all
}

// Table is the latencies for people to read.
func Table(all []Latency) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s %6s %10s %10s %10s %5s\n", "stage", "count", "median", "99 %", "max", "tries")
	for _, l := range all {
		ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
		fmt.Fprintf(&b, "%-16s %6d %10s %10s %10s %5d\n", l.Stage, l.Count, ms(l.Median), ms(l.P99), ms(l.Max), l.Tries)
	}
	return b.String()
}
