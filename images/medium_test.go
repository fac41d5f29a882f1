package images

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func bravosScript() []byte {
	return MediumScript(MediumFor{Host: "bravo", MACs: []string{"52:54:00:12:34:56"}, Servers: []string{"http://10.0.0.1"}})
}

func made(t *testing.T, write func(*os.File) error) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "medium")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return name
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestDisk(t *testing.T) {
	program, err := MediumProgram("", X86_64)
	if err != nil {
		t.Fatal(err)
	}
	m := IPXEMedium(X86_64, program, bravosScript())
	name := made(t, m.Disk)
	t.Log(run(t, "sgdisk", "-v", name), run(t, "sgdisk", "-p", name))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	fat := filepath.Join(t.TempDir(), "fat")
	if err := os.WriteFile(fat, data[mebi:len(data)-mebi], 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log(run(t, "fsck.vfat", "-n", "-v", fat))
	t.Log(run(t, "mdir", "-/", "-i", fat))
	if again, _ := os.ReadFile(made(t, m.Disk)); !bytes.Equal(again, data) {
		t.Error("two builds differ")
	}
	if dir := os.Getenv("KEEP"); dir != "" {
		os.WriteFile(dir+"/medium.img", data, 0o644)
	}
}

func TestISO(t *testing.T) {
	program, err := MediumProgram("", X86_64)
	if err != nil {
		t.Fatal(err)
	}
	m := IPXEMedium(X86_64, program, bravosScript())
	name := made(t, m.ISO)
	t.Log(run(t, "xorriso", "-indev", name, "-report_el_torito", "plain", "-report_system_area", "plain", "-find", "/"))
	t.Log(run(t, "sgdisk", "-v", name), run(t, "sgdisk", "-p", name))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(made(t, m.ISO)); !bytes.Equal(again, data) {
		t.Error("two builds differ")
	}
	if dir := os.Getenv("KEEP"); dir != "" {
		os.WriteFile(dir+"/medium.iso", data, 0o644)
	}
}
