package installer

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"provision/disko"
)

// TestLanes: steps of different disks run at a time, and are told apart; what comes before and after
// them runs alone.
func TestLanes(t *testing.T) {
	dir := t.TempDir()
	there, back := fifo(t, dir, "there"), fifo(t, dir, "back")
	log := filepath.Join(dir, "log")
	sh := func(disk, name, script string) disko.Step {
		return disko.Step{Stage: disko.StageCreate, Name: name, Disk: disk, Argv: []string{"sh", "-c", script, log, there, back}}
	}
	steps := []disko.Step{
		sh("", "before", `echo before >>"$0"`),
		// Neither ends unless both run.
		sh("a", "a1", `echo x >"$1"; read x <"$2"`),
		sh("b", "b1", `read x <"$1"; echo x >"$2"`),
		sh("a", "a2", `echo a2 >>"$0"`),
		sh("", "after", `echo after >>"$0"`),
	}
	var most int
	d := &Disks{Client: connect(t).client, Log: slog.New(slog.DiscardHandler), Tell: func(done, total int, step disko.Step) {
		if most = max(most, done); total != len(steps) || step.Name == "" {
			t.Errorf("told %d of %d: %q", done, total, step.Name)
		}
	}}
	if err := d.run(t.Context(), steps, false); err != nil {
		t.Fatal(err)
	}
	if out, err := d.session().run(t.Context(), nil, "cat", log); err != nil || string(out) != "before\na2\nafter\n" {
		t.Errorf("%q, %v", out, err)
	}
	if most >= len(steps) {
		t.Errorf("%d of %d steps were past while one ran", most, len(steps))
	}
}

// TestLaneFails: a step that fails beside another ends all, with its own words; what the other disk's
// step does is over before the machine is changed again.
func TestLaneFails(t *testing.T) {
	dir := t.TempDir()
	begun, log := fifo(t, dir, "begun"), filepath.Join(dir, "log")
	sh := func(disk, name, script string) disko.Step {
		return disko.Step{Stage: disko.StageCreate, Name: name, Disk: disk, Argv: []string{"sh", "-c", script, log, begun}}
	}
	steps := []disko.Step{
		sh("a", "format a", `echo words of a >&2; echo x >"$1"; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo a is over >>"$0"`),
		sh("b", "format b", `read x <"$1"; echo words of b >&2; exit 7`),
		sh("a", "later on a", `echo later >>"$0"`),
		sh("b", "later on b", `echo later >>"$0"`),
		sh("", "after", `echo after >>"$0"`),
	}
	d := &Disks{Client: connect(t).client, Log: slog.New(slog.DiscardHandler)}
	err := d.run(t.Context(), steps, false)
	if err == nil || !strings.HasPrefix(err.Error(), "format b: sh -c") || !strings.HasSuffix(err.Error(), "exit status 7:\n  words of b") || errors.Is(err, errLost) {
		t.Errorf("%v", err)
	}
	if out, err := d.session().run(t.Context(), nil, exclusiveLock("cat", log)...); err != nil || string(out) != "a is over\n" {
		t.Errorf("when the lock is free: %q, %v", out, err)
	}
}
