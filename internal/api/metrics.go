package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/internal/timeline"
)

// buckets are the upper bounds of the histograms' buckets, in seconds.
var buckets = []float64{0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600}

// meter collects the metrics of installs that end while the server runs, for Prometheus.
type meter struct {
	mu       sync.Mutex
	installs map[hosts.State]int
	whole    histogram
	phases   map[string]*histogram // by Prometheus labels
	sent     map[string]int64      // bytes, by Prometheus labels
}

// histogram counts durations.
type histogram struct {
	counts [13]int // by bucket, not cumulative; the last is for durations beyond all buckets
	sum    float64 // in seconds
}

// add counts a duration.
func (h *histogram) add(seconds float64) {
	i, _ := slices.BinarySearch(buckets, seconds)
	h.counts[i]++
	h.sum += seconds
}

// write writes the histogram in Prometheus' text format, version 0.0.4. labels end in a comma if there are any.
func (h *histogram) write(w io.Writer, name, labels string) {
	n := 0
	for i, count := range h.counts {
		n += count
		le := "+Inf"
		if i < len(buckets) {
			le = fmt.Sprint(buckets[i])
		}
		fmt.Fprintf(w, "%s_bucket{%sle=%q} %d\n", name, labels, le, n)
	}

	labels = strings.TrimSuffix(labels, ",")
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(w, "%s_sum%s %g\n%s_count%s %d\n", name, labels, h.sum, name, labels, n)
}

// observe adds the durations of an install that succeeded.
func (m *meter) observe(t timeline.Timeline) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phases == nil {
		m.phases, m.sent = make(map[string]*histogram), make(map[string]int64)
	}
	m.whole.add(t.Seconds)
	for _, p := range t.Phases {
		labels := fmt.Sprintf("phase=%q,side=%q,", p.Name, p.Side)
		if m.phases[labels] == nil {
			m.phases[labels] = new(histogram)
		}
		m.phases[labels].add(p.Seconds)
		if p.Bytes > 0 {
			m.sent[fmt.Sprintf("phase=%q,over=%q", p.Name, p.Over)] += p.Bytes
		}
	}
}

// ended counts an install that ended in state s.
func (m *meter) ended(s hosts.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.installs == nil {
		m.installs = make(map[hosts.State]int)
	}
	m.installs[s]++
}

// write writes all metrics.
func (m *meter) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	about := func(name, kind, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	about("provision_installs_total", "counter", "Installs that came to an end since the server started.")
	for _, s := range []hosts.State{hosts.StateInstalled, hosts.StateFailed} {
		fmt.Fprintf(w, "provision_installs_total{state=%q} %d\n", s, m.installs[s])
	}
	about("provision_install_seconds", "histogram", "From the enrolment to the proof that the host came up.")
	m.whole.write(w, "provision_install_seconds", "")
	about("provision_phase_seconds", "histogram", "The phases of installs, and who each waits for; some overlap.")
	for _, labels := range slices.Sorted(maps.Keys(m.phases)) {
		m.phases[labels].write(w, "provision_phase_seconds", labels)
	}
	about("provision_sent_bytes_total", "counter", "What was sent to machines that were installed.")
	for _, labels := range slices.Sorted(maps.Keys(m.sent)) {
		fmt.Fprintf(w, "provision_sent_bytes_total{%s} %d\n", labels, m.sent[labels])
	}
}

// Measure collects metrics of installs that end, until ctx ends.
func (s *Server) Measure(ctx context.Context) error {
	changed := s.Hosts.Watch(ctx) // before List, so that no change is missed between the two
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}

	last := make(map[string]uint64)
	for _, h := range all {
		last[h.Name] = h.LastEvent
	}
	for name := range changed {
		h, err := s.Hosts.Get(name)
		if errors.Is(err, hosts.ErrNotFound) {
			delete(last, name)
			continue
		}
		if err == nil && h.LastEvent < last[name] { // the host was forgotten and enrolled again
			delete(last, name)
		}
		if err == nil && h.State != hosts.StateInstalled &&
			h.State != hosts.StateFailed { // earlier events are read together when it ends
			continue
		}

		news, eventsErr := s.Hosts.Events(name, last[name])
		err = errors.Join(err, eventsErr)
		for _, ev := range news {
			last[name] = ev.Number
			err = errors.Join(err, s.measure(ev))
		}
		if err != nil {
			s.Log.Error("measure an install", "host", name, "err", err)
		}
	}

	return nil
}

// measure counts an event that ends an install.
func (s *Server) measure(ev hosts.Event) error {
	switch ev.Kind {
	case hosts.EventFailed:
		s.meter.ended(hosts.StateFailed)
	case hosts.EventProved:
		s.meter.ended(hosts.StateInstalled)
		events, err := s.Hosts.Events(ev.Host, 0)
		if err != nil {
			return err
		}
		s.meter.observe(timeline.Of(events, ev.Time))
	}
	return nil
}

// metrics answers in Prometheus' text format, version 0.0.4.
func (s *Server) metrics(c echo.Context) error {
	c.Response().Header().Set(echo.HeaderContentType, "text/plain; version=0.0.4")
	s.meter.write(c.Response())
	return nil
}
