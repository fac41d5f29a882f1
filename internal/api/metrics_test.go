package api

import (
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/timeline"
)

func TestMetrics(t *testing.T) {
	var m meter
	m.ended(hosts.StateFailed)
	for _, s := range []float64{1, 9, 4000} {
		m.ended(hosts.StateInstalled)
		m.observe(timeline.Timeline{Seconds: s, Phases: []timeline.Phase{
			{Name: timeline.Copy, Side: timeline.Network, Seconds: s / 2, Bytes: 1000, Over: "http"}, {Name: timeline.Disks, Side: timeline.Machine, Seconds: 0.05}}})
	}
	var b strings.Builder
	m.write(&b)
	for _, line := range []string{
		`provision_installs_total{state="installed"} 3`, `provision_installs_total{state="failed"} 1`,
		`# TYPE provision_install_seconds histogram`,
		`provision_install_seconds_bucket{le="0.3"} 0`, `provision_install_seconds_bucket{le="1"} 1`, `provision_install_seconds_bucket{le="10"} 2`,
		`provision_install_seconds_bucket{le="3600"} 2`, `provision_install_seconds_bucket{le="+Inf"} 3`, `provision_install_seconds_sum 4010`, `provision_install_seconds_count 3`,
		`provision_phase_seconds_bucket{phase="copy",side="network",le="0.3"} 0`, `provision_phase_seconds_count{phase="copy",side="network"} 3`,
		`provision_phase_seconds_bucket{phase="disks",side="machine",le="0.1"} 3`,
		`provision_sent_bytes_total{phase="copy",over="http"} 3000`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("lacks %s", line)
		}
	}
	if t.Failed() {
		t.Log(b.String())
	}
}
