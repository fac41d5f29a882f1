package disko

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReleases plans one layout as releases of disko evaluate it (testdata/releases/layout.nix; a release is left out
// where it evaluates that as the one before). Each plan differs from the newest one's as differences.txt says.
// DISKO_GOLDEN=write writes that; read it before you commit it.
func TestReleases(t *testing.T) {
	newest := releasePlan(t, "v1.13.0")
	if slices.ContainsFunc(newest, func(line string) bool { return strings.Contains(line, "set-alignment") }) {
		t.Error("the newest release does not say how partitions are aligned")
	}
	var got strings.Builder
	for _, release := range []string{"v1.1.0", "v1.3.0", "v1.6.1", "v1.8.2", "v1.9.0", "v1.10.0", "v1.12.0"} {
		got.WriteString(release + "\n")
		for _, line := range diff(newest, releasePlan(t, release)) {
			got.WriteString(line + "\n")
		}
	}
	const golden = "testdata/releases/differences.txt"
	if os.Getenv("DISKO_GOLDEN") == "write" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("differs from %s:\n%s", golden, &got)
	}
}

// releasePlan are the lines of the plan for blank disks, all of which it erases.
func releasePlan(t *testing.T, release string) []string {
	t.Helper()
	l := mustParse(t, readFile(t, "releases/"+release+".json"))
	if p := l.Problems(); p != nil {
		t.Errorf("%s: %v", release, p)
	}
	p, err := NewPlan(l, blank(t, l), Options{})
	if err != nil {
		t.Fatalf("%s: %v", release, err)
	}
	checkPlan(t, p)
	for _, d := range p.Disks {
		if !d.Erased {
			t.Errorf("%s: %s is not erased", release, d.Name)
		}
	}
	return strings.Split(planText(p), "\n")
}

// TestOldVolumes: disko before 1.4 makes the last volume first, and those of 100% at the end, in their order.
func TestOldVolumes(t *testing.T) {
	data := edit(t, readFile(t, "releases/v1.1.0.json"), map[string]any{
		"lvm_vg.pool.lvs.all":  volumeOf("all", "+100%FREE"),
		"lvm_vg.pool.lvs.zero": volumeOf("zero", "10%VG"),
		"lvm_vg.pool.lvs.rest": nil,
		"lvm_vg.pool.lvs.aaaa": volumeOf("aaaa", "1G"),
	})
	l := mustParse(t, data)
	p, err := NewPlan(l, blank(t, l), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, s := range p.Steps {
		if s.Argv[0] == "lvcreate" {
			order = append(order, strings.Join(s.Argv[2:6], " "))
		}
	}
	want := []string{"-l 10%VG -n zero", "-L 20G -n root", "-l 50%FREE -n half", "-L 1G -n aaaa", "-l 100%FREE -n all"}
	if !slices.Equal(order, want) {
		t.Errorf("made in the order %q, want %q", order, want)
	}
}

// volumeOf is a volume without content as disko 1.1 evaluates it.
func volumeOf(name, size string) map[string]any {
	return map[string]any{"name": name, "size": size, "lvm_type": nil, "extraArgs": []any{}, "content": nil}
}

// TestReleaseFiles: each release's shape is planned, and nothing else is in the folder.
func TestReleaseFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/releases/*.json")
	if err != nil || len(files) != 8 {
		t.Fatal(files, err)
	}
}

func TestNewerDisko(t *testing.T) {
	const (
		main = "disk.main"
		root = "disk.main.content.partitions.root"
	)
	nothing := map[string]any{
		"cachevol": map[string]any{}, main + ".resize": false, root + ".grow": json.RawMessage("null"), root + ".content.verity": "", root + ".content.tags": []any{},
	}
	l := mustParse(t, edit(t, readFile(t, "layouts/efi.json"), nothing))
	p, err := NewPlan(l, blank(t, l), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Problems) != 1 || p.Problems[0].Stops {
		t.Fatalf("got %v, want one warning", p.Problems)
	}
	text := p.Problems[0].String()
	if !strings.HasPrefix(text, "this disko is newer than what provision knows") {
		t.Error(text)
	}
	for name := range nothing {
		if !strings.Contains(text+",", " "+name+",") {
			t.Errorf("%s is not named: %s", name, text)
		}
	}

	var want []string
	for _, at := range []string{root + ".content.verity", root + ".grow", main + ".resize", "cachevol"} {
		want = append(want, at+": is not known to provision, and is set: this disko is newer than what provision knows")
	}
	_, err = Parse(edit(t, readFile(t, "layouts/efi.json"), map[string]any{
		"cachevol": map[string]any{"a": nil}, main + ".resize": true, root + ".grow": 0, root + ".content.verity": "x",
	}))
	slices.Sort(want)
	wantProblems(t, err, want...)
}
