package media

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestScript: what iPXE would trip over. That it boots is tested in QEMU.
func TestScript(t *testing.T) {
	servers := []string{"http://10.0.0.1", "http://10.1.0.1:8080"}
	for _, m := range []Purpose{
		{Servers: servers},
		{Host: "bravo", MACs: []string{"52:54:00:12:34:56"}, Servers: servers[:1]},
		{Host: "bravo", MACs: []string{"52:54:00:12:34:56", "52:54:00:12:34:57"}, Servers: servers},
	} {
		text := string(Script(m))
		if !strings.HasPrefix(text, "#!ipxe\n") || !strings.HasSuffix(text, "exit 1\n") {
			t.Errorf("%s", text)
		}
		labels := regexp.MustCompile(`(?m)^:(\w+)$`).FindAllStringSubmatch(text, -1)
		var names []string
		for _, l := range labels {
			if slices.Contains(names, l[1]) {
				t.Errorf("two labels are :%s", l[1])
			}
			names = append(names, l[1])
		}
		for _, to := range regexp.MustCompile(`goto (\w+)`).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(names, to[1]) && to[1] != "ask" {
				t.Errorf("there is no :%s", to[1])
			}
		}
		for _, server := range m.Servers {
			if !strings.Contains(text, "chain --autofree "+server+"/ipxe?") {
				t.Errorf("it does not ask %s", server)
			}
		}
		for _, mac := range m.MACs {
			if !strings.Contains(text, "iseq ${net${idx}/mac} "+mac+" && goto ask ||\n") {
				t.Errorf("it does not know %s", mac)
			}
		}
		// A card that is not the host's is left alone.
		if alone := strings.Contains(text, "\ngoto next\n:ask\n"); alone != (m.Host != "") {
			t.Errorf("of %q: other cards are left alone: %v", m.Host, alone)
		}
		for line := range strings.Lines(text) {
			// iPXE's lines are unlimited; a screen's are not.
			if shown, ok := strings.CutPrefix(line, "echo "); ok && len(shown) > 160 {
				t.Errorf("too long for a screen: %s", line)
			}
		}
	}
}
