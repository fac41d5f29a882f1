package layouts

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"provision/disko"
)

// theirs are disko's own examples, evaluated; they are there on some machines only.
const theirs = "/work/shared/disko/layouts"

// layout is one to make.
type layout struct {
	name string
	data []byte // disko.devices as JSON, with the machine's disks
}

var withoutTools = regexp.MustCompile(`"type": *"(zfs|zpool|bcachefs)"`)

// all returns the layouts whose tools the machine has.
func all(t *testing.T) (list []layout) {
	t.Helper()
	for _, dir := range []string{"../../../disko/testdata/layouts", theirs} {
		files, err := filepath.Glob(dir + "/*.json")
		check(t, err)
		for _, file := range files {
			data, err := os.ReadFile(file)
			check(t, err)
			if name := map[bool]string{true: "examples", false: "layouts"}[dir == theirs] + "/" + strings.TrimSuffix(filepath.Base(file), ".json"); !withoutTools.Match(data) {
				list = append(list, layout{name, place(t, data)})
			}
		}
	}
	return list
}

// place gives a layout the machine's disks.
func place(t *testing.T, data []byte) []byte {
	t.Helper()
	var groups map[string]map[string]struct{ Device string }
	check(t, json.Unmarshal(data, &groups))
	text := string(data)
	// Partitions of legacy tables have the disk's name in theirs.
	for _, suffix := range []string{`"`, `(?:-part|p)?([0-9]+)"`} {
		for i, name := range slices.Sorted(maps.Keys(groups["disk"])) {
			device := regexp.MustCompile(`"` + regexp.QuoteMeta(groups["disk"][name].Device) + suffix)
			text = device.ReplaceAllString(text, fmt.Sprintf(`"@%d@$1"`, i))
		}
	}
	for i, node := range nodes {
		text = strings.ReplaceAll(text, fmt.Sprintf("@%d@", i), node)
	}
	// The disks are small, and keys are cheap to try.
	text = gibibytes.ReplaceAllStringFunc(text, func(size string) string {
		m := gibibytes.FindStringSubmatch(size)
		n, err := strconv.Atoi(m[2])
		check(t, err)
		return fmt.Sprintf(`"%s%dM%s"`, m[1], 64*n, m[3])
	})
	return []byte(slowKeys.ReplaceAllString(text, `$0 "--pbkdf pbkdf2", "--pbkdf-force-iterations 1000",`))
}

var (
	gibibytes = regexp.MustCompile(`"([+-]?)([0-9]+)G((?:iB)?)"`)
	slowKeys  = regexp.MustCompile(`"extraFormatArgs": *\[`)
)

func TestLayouts(t *testing.T) {
	want := os.Getenv("LAYOUTS")
	m := newMachine(t)
	for _, l := range all(t) {
		if matched, err := regexp.MatchString(want, l.name); err != nil || !matched {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			start := time.Now()
			l.cycle(t, m)
			t.Logf("%.1f s", time.Since(start).Seconds())
		})
	}
}

// plan plans a layout for what the machine has.
func (l layout) plan(t *testing.T, m *machine, way disko.Way) *disko.Plan {
	t.Helper()
	parsed, err := disko.Parse(l.data)
	check(t, err)
	p, err := disko.NewPlan(parsed, m.facts(t, nil), disko.Options{Way: way})
	check(t, err)
	return p
}

func (l layout) cycle(t *testing.T, m *machine) {
	m.wipe(t)
	p := l.plan(t, m, disko.Fresh)
	for _, file := range p.KeyFiles() {
		m.sh(t, fmt.Sprintf("mkdir -p $(dirname %[1]s); seq 3000 >%[1]s", quote(file)))
	}
	lap := time.Now()
	m.run(t, p.Steps)
	t.Logf("%d steps: %.1f s", len(p.Steps), time.Since(lap).Seconds())
	for _, disk := range p.Tables() {
		if err := p.Verify(disk.Device, m.table(t, disk)); err != nil {
			t.Errorf("verify %s: %v", disk.Device, err)
		}
	}
	lap = time.Now()
	m.run(t, p.Unmount())
	t.Logf("unmount: %.1f s", time.Since(lap).Seconds())
	f := m.facts(t, nil)
	if left := p.Close(f); len(left) > 0 {
		for _, s := range left {
			t.Errorf("left after unmount: %s: %q", s.Name, s.Argv)
		}
		m.run(t, left)
	}
}
