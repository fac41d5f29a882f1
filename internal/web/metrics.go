package web

import (
	"context"
	"errors"
	"fmt"

	"github.com/VictoriaMetrics/metrics"
	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/internal/timeline"
)

// buckets are from what is over at once to what takes an evening, in seconds.
var buckets = []float64{0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600}

// meter counts the installs that end while the server runs, for Prometheus.
type meter struct{ set *metrics.Set }

func newMeter() meter {
	m := meter{metrics.NewSet()}
	for _, s := range []hosts.State{hosts.Installed, hosts.Failed} { // that there is none yet can be seen, too
		m.installs(s)
	}
	return m
}

func (m meter) installs(s hosts.State) *metrics.Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf("provision_installs_total{state=%q}", s))
}

// observe is told of an install that came to its end.
func (m meter) observe(t timeline.Timeline) {
	for _, p := range t.Phases {
		m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf("provision_phase_seconds{phase=%q,side=%q}", p.Name, p.Side), buckets).Update(p.Seconds)
		if p.Bytes > 0 {
			m.set.GetOrCreateCounter(fmt.Sprintf("provision_sent_bytes_total{phase=%q,over=%q}", p.Name, p.Over)).AddInt64(p.Bytes)
		}
	}
	m.set.GetOrCreatePrometheusHistogramExt("provision_install_seconds", buckets).Update(t.Seconds)
}

// Measure looks out for installs that end, until ctx ends, for the metrics.
func (s *Server) Measure(ctx context.Context) error {
	changed := s.Hosts.Watch(ctx) // before the first look, so that nothing is missed between
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
		if h.LastEvent < last[name] || errors.Is(err, hosts.ErrNotFound) { // it was forgotten, and perhaps enrolled again
			delete(last, name)
		}
		news, err := s.Hosts.Events(name, last[name])
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

func (s *Server) measure(ev hosts.Event) error {
	switch ev.Kind {
	case hosts.Broke:
		s.meter.installs(hosts.Failed).Inc()
	case hosts.Proved:
		s.meter.installs(hosts.Installed).Inc()
		events, err := s.Hosts.Events(ev.Host, 0)
		if err != nil {
			return err
		}
		s.meter.observe(timeline.Of(events, ev.Time))
	}
	return nil
}

// metrics is in Prometheus' text format, version 0.0.4.
func (s *Server) metrics(c echo.Context) error {
	c.Response().Header().Set(echo.HeaderContentType, "text/plain; version=0.0.4")
	s.meter.set.WritePrometheus(c.Response())
	return nil
}
