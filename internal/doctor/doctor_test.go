package doctor

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"

	"provision/internal/lab"
)

func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-test.fuzzworker") { // of a process that is in a namespace
		os.Exit(m.Run())
	}
	os.Exit(lab.InNamespace(m.Run))
}

// lan is a segment with this machine at 10.77.0.1 on br0.
func lan(t *testing.T) *lab.LAN {
	t.Helper()
	l, err := lab.NewLAN(t.Context(), "br0", netip.MustParsePrefix("10.77.0.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// plug plugs a computer into it.
func plug(t *testing.T, l *lab.LAN, name, mac, address string) *lab.Client {
	t.Helper()
	c, err := l.Client(t.Context(), name, mac, netip.MustParsePrefix(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// same compares findings, in the words that people see.
func same(t *testing.T, name string, got []Finding, want ...string) {
	t.Helper()
	var lines []string
	for _, f := range got {
		lines = append(lines, fmt.Sprintf("%s %s: %s → %s", f.Severity, f.Check, f.What, f.Remedy))
	}
	if len(lines) != len(want) {
		t.Errorf("%s: got\n%q\nwant\n%q", name, lines, want)
		return
	}
	for i := range want {
		if lines[i] != want[i] {
			t.Errorf("%s: got\n%s\nwant\n%s", name, lines[i], want[i])
		}
	}
}
