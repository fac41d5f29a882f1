package installer

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/disko"
	"provision/hosts"
)

// TestAbreast: parts run at a time; the first that fails ends the others, and is what is told when
// all have ended.
func TestAbreast(t *testing.T) {
	broken := errors.New("broken")
	part := func(p hosts.Phase, run func(context.Context) error) batchPart { return batchPart{p, run} }
	aRuns, bRuns, cIsLeft := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var left hosts.Phase
	at, err := concurrently(t.Context(), func(p hosts.Phase) { left = p; close(cIsLeft) },
		part("a", func(context.Context) error { close(aRuns); <-bRuns; return nil }),
		part("b", func(context.Context) error { <-aRuns; close(bRuns); return nil }),
		part("c", func(context.Context) error { <-cIsLeft; return nil }))
	if err != nil || left != "c" {
		t.Errorf("%s: %v; %q was left", at, err, left)
	}
	for _, failing := range []hosts.Phase{"a", "b"} {
		cleared := false
		run := func(p hosts.Phase) func(context.Context) error {
			return func(ctx context.Context) error {
				if p == failing {
					return broken
				}
				<-ctx.Done()
				cleared = errors.Is(context.Cause(ctx), errConcurrent)
				return context.Cause(ctx)
			}
		}
		at, err := concurrently(t.Context(), func(hosts.Phase) { t.Error("a failed part left another") }, part("a", run("a")), part("b", run("b")))
		if at != failing || !errors.Is(err, broken) || !cleared {
			t.Errorf("%s failed: %v at %s; the other was ended: %v", failing, err, at, cleared)
		}
	}
	waits := make(chan struct{})
	at, err = concurrently(t.Context(), func(hosts.Phase) { close(waits) },
		part("a", func(context.Context) error { <-waits; return broken }),
		part("b", func(context.Context) error { return nil }))
	if at != "a" || !errors.Is(err, broken) {
		t.Errorf("the slower one failed: %v at %s", err, at)
	}
}

// TestNothingIsLeft: what one of two parts runs on the machine is over before anything else changes
// the machine, such as what closes the disks.
func TestNothingIsLeft(t *testing.T) {
	s, dir := connect(t), t.TempDir()
	begun, log := fifo(t, dir, "begun"), filepath.Join(dir, "log")
	_, err := concurrently(t.Context(), func(hosts.Phase) { t.Error("nothing failed") },
		batchPart{hosts.PhaseFiles, func(ctx context.Context) error {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer r.Close()
			defer w.Close()
			// It ends when its input does, and then needs a while.
			_, err = s.run(ctx, r, sharedLock("sh", "-c", `echo >"$0"; cat >/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo files are over >>"$1"`, begun, log)...)
			return err
		}},
		batchPart{hosts.PhaseCopy, func(ctx context.Context) error {
			// Both at a time, although each holds the lock.
			_, err := s.run(ctx, nil, sharedLock("sh", "-c", `read x <"$0"; echo copy broke >>"$1"; exit 1`, begun, log)...)
			return err
		}})
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("%v", err)
	}
	out, err := s.run(t.Context(), nil, exclusiveLock("cat", log)...)
	if got := string(out); err != nil || got != "copy broke\nfiles are over\n" {
		t.Errorf("when the lock is free: %q, %v", got, err)
	}
}

// fifo makes a named pipe.
func fifo(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// slowFleet is a host whose disk is one file system, and whose build waits for word.
const slowFleet = `{
  outputs = { self }: {
    nixosConfigurations.a = {
      pkgs.stdenv.hostPlatform.system = "x86_64-linux";
      config.disko.devices.disk.main = {
        type = "disk"; device = "/dev/vdz"; name = "main"; destroy = true;
        content = { device = "/dev/vdz"; type = "filesystem"; format = "ext4"; mountpoint = "/"; };
      };
      config.system.build.toplevel = TOPLEVEL;
    };
  };
}`

// slowMachine has programs in the place of those that make disks, and a network card of its own. What is
// on /dev/vdz is in lsblk.json.
func slowMachine(t *testing.T, mac string) (dir string) {
	t.Helper()
	const disk = `{"blockdevices":[{"name":"vdz","path":"/dev/vdz","type":"disk","size":8589934592,"serial":"Z"STATE}]}`
	state := func(s string) string { return strings.Replace(disk, "STATE", s, 1) }
	dir = pretend(t, map[string]string{
		"cat":       `case "$*" in */address) echo ` + mac + `;; *) exec /bin/cat "$@";; esac`,
		"lsblk":     "/bin/cat lsblk.json",
		"findmnt":   "/bin/cat findmnt.json",
		"blkid":     "exit 0",
		"wipefs":    "exit 0",
		"dd":        "exit 0",
		"udevadm":   "exit 0",
		"mkdir":     "exit 0",
		"mkfs.ext4": "echo made >>log; /bin/cat made.json >lsblk.json",
		"mount":     "echo mounted >>log; /bin/cat mounted.json >lsblk.json; /bin/cat there.json >findmnt.json",
		"umount":    "echo unmounted >>log; /bin/cat made.json >lsblk.json; /bin/cat nothing.json >findmnt.json",
	})
	for name, text := range map[string]string{
		"lsblk.json":   state(""),
		"made.json":    state(`,"fstype":"ext4"`),
		"mounted.json": state(`,"fstype":"ext4","mountpoints":["/mnt"]`),
		"nothing.json": `{"filesystems":[]}`,
		"findmnt.json": `{"filesystems":[]}`,
		"there.json":   `{"filesystems":[{"target":"/mnt","source":"/dev/vdz","fstype":"ext4","options":"rw","fsroot":"/"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// live brings the host's installer up, as far as the inventory knows.
func live(t *testing.T, f *reconciler, s *session) hosts.Host {
	t.Helper()
	h, err := f.Hosts.Get("a")
	if err == nil && h.Boot.Token == "" {
		h, err = f.Hosts.Apply("a", hosts.Event{Kind: hosts.EventNetboot, Machine: "m", Boot: &hosts.Boot{Token: "t", Expires: f.Now().Add(time.Hour)}})
	}
	if err == nil {
		h, err = f.Hosts.Apply("a", hosts.Event{Kind: hosts.EventContacted, Boot: &h.Boot, Address: s.addr})
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// slowInstall is a host whose build waits for a line in the gate, and then fails with it, and what its machine
// did.
func slowInstall(t *testing.T) (f *reconciler, gate, log string) {
	t.Helper()
	gate = fifo(t, t.TempDir(), "gate")
	n, dir := flake(t, strings.Replace(slowFleet, "TOPLEVEL",
		`derivation { name = "slow"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "read x < `+gate+`; echo $x >&2; exit 1" ]; }`, 1))
	n.Roots = t.TempDir()
	machine := slowMachine(t, "52:54:00:00:00:01")
	f, _ = following(t, n, dir, hosts.Choices{})
	return f, gate, filepath.Join(machine, "log")
}

// ended is how an install came out.
type ended struct {
	at  hosts.Phase
	err error
}

// untilBuild installs until the disks are mounted and only the build is waited for.
func untilBuild(t *testing.T, ctx context.Context, f *reconciler, s *session) <-chan ended {
	t.Helper()
	h := live(t, f, s)
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	changes := f.Hosts.Watch(watching)
	end := make(chan ended, 1)
	go func() {
		at, err := inHand(f, h, s).run(ctx, func(hw string) { f.startBuild(t.Context(), h, hw) })
		end <- ended{at, err}
	}()
	for {
		select {
		case <-changes:
		case e := <-end:
			t.Fatalf("it ended before the disks were made: %s, %v", e.at, e.err)
		}
		all, err := f.Hosts.Events("a", h.LastEvent)
		if err != nil {
			t.Fatal(err)
		}
		now, err := f.Hosts.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		made := slices.ContainsFunc(all, func(ev hosts.Event) bool { return ev.Kind == hosts.EventFinished && ev.Phase == hosts.PhaseDisks })
		if made && now.Phase == hosts.PhaseBuild && !now.Permit.Burned.IsZero() {
			return end
		}
	}
}

// did compares what the machine did.
func did(t *testing.T, log, want string) {
	t.Helper()
	if got, err := os.ReadFile(log); err != nil || strings.ReplaceAll(string(got), "\n", " ") != want+" " {
		t.Errorf("the machine did %q, want %q, %v", got, want, err)
	}
}

// TestDisksBesideBuild: blank disks are made while the system is built. If that then fails, they are
// closed, and a retry goes on with them as they are.
func TestDisksBesideBuild(t *testing.T) {
	f, gate, log := slowInstall(t)
	s := connect(t)
	for _, want := range []string{"made mounted unmounted", "made mounted unmounted mounted unmounted"} {
		end := untilBuild(t, t.Context(), f, s)
		if f.builds["a"].over() {
			t.Error("the build did not wait")
		}
		if err := os.WriteFile(gate, []byte("out of ideas\n"), 0); err != nil {
			t.Fatal(err)
		}
		e := <-end
		if e.at != hosts.PhaseBuild || e.err == nil || !strings.Contains(e.err.Error(), "out of ideas") || !strings.Contains(e.err.Error(), "`provision retry` goes on from there") {
			t.Fatalf("%s: %v", e.at, e.err)
		}
		did(t, log, want)
		f.fail(e.at, e.err)
		if _, err := f.Hosts.Apply("a", hosts.Event{Kind: hosts.EventRetried}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledBesideBuild: a server that ends while it waits for the build leaves the disks as they are, and
// the next one goes on with them.
func TestKilledBesideBuild(t *testing.T) {
	f, gate, log := slowInstall(t)
	s := connect(t)
	ctx, kill := context.WithCancel(t.Context())
	end := untilBuild(t, ctx, f, s)
	kill()
	if e := <-end; !errors.Is(e.err, context.Canceled) {
		t.Fatalf("%s: %v", e.at, e.err)
	}
	b := f.builds["a"]
	b.cancel()
	<-b.done
	delete(f.builds, "a")
	did(t, log, "made mounted")
	end = untilBuild(t, t.Context(), f, s)
	did(t, log, "made mounted")
	// The builder of the nix that was killed still waits for its line.
	w, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("out of ideas\nout of ideas\n"); err != nil {
		t.Fatal(err)
	}
	if e := <-end; e.at != hosts.PhaseBuild {
		t.Errorf("%s: %v", e.at, e.err)
	}
	did(t, log, "made mounted unmounted")
}

// TestMayFormat: what is worth keeping is not formatted before there is something to put in its place.
func TestMayFormat(t *testing.T) {
	layout, err := disko.Parse([]byte(`{"disk":{"main":{"type":"disk","device":"/dev/vdz","name":"main","destroy":true,"content":{"device":"/dev/vdz","type":"filesystem","format":"ext4","mountpoint":"/"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	machine := slowMachine(t, "")
	f := &reconciler{name: "a"}
	over := make(chan struct{})
	close(over)
	for i, tt := range []struct {
		disks  string // file
		burned bool
		done   chan struct{}
		want   bool
	}{
		{"lsblk.json", false, make(chan struct{}), true},
		{"lsblk.json", false, over, false}, // nothing to wait for
		{"lsblk.json", true, make(chan struct{}), true},
		{"made.json", false, make(chan struct{}), false},
		{"made.json", true, make(chan struct{}), true},      // gone already
		{"nothing.json", false, make(chan struct{}), false}, // the disk is not there; who makes the disks says so
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			blank, err := os.ReadFile(filepath.Join(machine, "lsblk.json"))
			if err != nil {
				t.Fatal(err)
			}
			now, err := os.ReadFile(filepath.Join(machine, tt.disks))
			if err == nil {
				err = os.WriteFile(filepath.Join(machine, "lsblk.json"), now, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.WriteFile(filepath.Join(machine, "lsblk.json"), blank, 0o644) })
			h := hosts.Host{Name: "a"}
			if tt.burned {
				h.Permit.Burned = h.Permit.Issued.Add(1)
			}
			d := &Disks{Client: connect(t).client, Layout: layout, Log: slog.New(slog.DiscardHandler)}
			if got := (&install{reconciler: f, host: h, build: &hostBuild{done: tt.done}, disks: d}).mayFormat(t.Context()); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
