package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"provision/internal/lab/netboot"
)

// report is how it went for all machines.
type report struct {
	results []netboot.Result
	took    []time.Duration // by machine
	total   time.Duration   // until the last was done
}

// stages are the answers that the machines waited for, by stage: how long
// each took, and how often it was asked for.
func (r *report) stages() (took map[string][]time.Duration, again map[string]int) {
	took, again = make(map[string][]time.Duration), make(map[string]int)
	for _, res := range r.results {
		for _, f := range res.Fetched {
			if f.Stage == "program" && strings.HasPrefix(f.URL, "tftp:") {
				again[f.Stage]-- // the first request was for the size
			}
		}
		for _, t := range res.Timing {
			took[t.Stage] = append(took[t.Stage], max(t.Took, 0)) // an address that it had before it asked: less than nothing
			again[t.Stage] += t.Tries - 1
		}
	}
	return took, again
}

// waited is how long each machine waited for the server in all: the boot
// without the firmware's own pauses.
func (r *report) waited() (all []time.Duration) {
	for _, res := range r.results {
		var sum time.Duration
		for _, t := range res.Timing {
			sum += max(t.Took, 0)
		}
		all = append(all, sum)
	}
	return all
}

// percentile is the time within which p percent were done.
func percentile(all []time.Duration, p int) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[(len(all)-1)*p/100]
}

func (r *report) String() string {
	var b strings.Builder
	row := func(what string, all []time.Duration, again int) {
		fmt.Fprintf(&b, "%-20s %5d  p50 %8.3f s  p99 %8.3f s  max %8.3f s  asked again %d times\n", what, len(all),
			percentile(all, 50).Seconds(), percentile(all, 99).Seconds(), percentile(all, 100).Seconds(), again)
	}
	took, again := r.stages()
	sum := 0
	for _, stage := range slices.Sorted(maps.Keys(took)) {
		row(stage, took[stage], again[stage])
		sum += again[stage]
	}
	row("waits for the server", r.waited(), sum)
	row("whole boot", r.took, sum)
	return b.String()
}

// lost tells of the machines that did not come as far as they were to.
func (r *report) lost() (lost []string) {
	for i, res := range r.results {
		if res.Stopped != "" || res.Local {
			lost = append(lost, fmt.Sprintf("%s: %s", mac(i), res.Stopped))
		}
	}
	return lost
}
