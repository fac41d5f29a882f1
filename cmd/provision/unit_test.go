package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUnit: packaging/provision.service starts what there is, with the folders that are its defaults, and systemd
// understands it and its drop-ins.
func TestUnit(t *testing.T) {
	t.Setenv("PROVISION_SOCKET", "")
	unit, err := os.ReadFile("../../packaging/provision.service")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(unit), "\n")
	for _, want := range []string{
		"Type=notify",
		"StateDirectory=" + strings.TrimPrefix(defaultState, "/var/lib/"),
		"RuntimeDirectory=" + strings.TrimPrefix(filepath.Dir(defaultSocket()), "/run/"),
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("the unit has no %s", want)
		}
	}
	i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ExecStart=") })
	if i < 0 {
		t.Fatal("the unit starts nothing")
	}
	command := strings.Fields(strings.TrimPrefix(lines[i], "ExecStart="))
	serve, args, err := rootCommand().Find(command[1:])
	if err == nil {
		err = serve.ParseFlags(args)
	}
	if err != nil || serve.Name() != "serve" || !serve.Flags().Changed("config") {
		t.Errorf("%s is no command: %v", lines[i], err)
	}

	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed, so the unit is not verified: apt-get install systemd")
	}
	dropIns, err := filepath.Glob("../../packaging/*.conf")
	if err != nil || len(dropIns) == 0 {
		t.Fatalf("no drop-in, %v", err)
	}
	for _, file := range append([]string{""}, dropIns...) {
		// It warns of a program and of a unit that are not there.
		here := strings.ReplaceAll(string(unit), command[0], "/bin/true")
		if file != "" {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			here += strings.ReplaceAll(string(data), "Requires=nix-daemon.socket", "")
		}
		path := filepath.Join(t.TempDir(), "provision.service")
		if err := os.WriteFile(path, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
}
