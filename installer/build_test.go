package installer

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/nix"
)

// TestWaitsForTurn: a host that waits for its evaluation says so, and goes on when its turn comes.
func TestWaitsForTurn(t *testing.T) {
	n, dir := flake(t, fleet)
	n.Evaluations = nix.NewQueue(1)
	f, h := following(t, n, dir, hosts.Choices{})
	leave, err := f.Nix.Evaluations.Enter(t.Context(), nix.Waiter{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := f.Hosts.Watch(ctx)
	until := func(what string, is func(hosts.Host) bool) {
		t.Helper()
		for {
			now, err := f.Hosts.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			if is(now) {
				return
			}
			select {
			case <-changes:
			case <-f.builds["a"].done:
				if now, err = f.Hosts.Get("a"); err != nil || !is(now) {
					t.Fatalf("the build ended before %s: %v", what, err)
				}
				return
			}
		}
	}
	f.startBuild(t.Context(), h, "")
	until("it said that it waits", func(h hosts.Host) bool { return strings.Contains(h.Progress.Now, "waits for its turn to be evaluated") })
	if now, _ := f.Hosts.Get("a"); now.Phase != hosts.PhaseNetboot || now.State != hosts.StateReady {
		t.Errorf("while it waits it is %s, %s", now.State, now.Phase)
	}
	leave()
	until("it had its turn", func(h hosts.Host) bool { return h.Progress.Now == "" })
	<-f.builds["a"].done // the flake has no host a, which nix says
	if err := f.builds["a"].err; err == nil || !strings.Contains(err.Error(), "has no nixosConfigurations.a") {
		t.Errorf("it was not evaluated: %v", err)
	}
	cancel()
	if _, err := f.Nix.Evaluations.Enter(ctx, nix.Waiter{}); err != nil { // who has to wait gives up at once
		t.Error("its turn was not given back")
	}
}

// TestAtTheDoor: a host is in a hurry once its machine is there.
func TestAtTheDoor(t *testing.T) {
	f, _ := following(t, nix.Builder{}, t.TempDir(), hosts.Choices{})
	n := f.queued(&hostBuild{})
	if n.Evaluates.Hurry() || n.Building.Hurry() {
		t.Error("it is in a hurry before its machine asked")
	}
	if _, err := f.Hosts.Apply("a", hosts.Event{Kind: hosts.EventNetboot, Machine: "m", Boot: &hosts.Boot{Token: "t", Expires: f.Now().Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	if !n.Evaluates.Hurry() || !n.Building.Hurry() {
		t.Error("it is in no hurry with its machine at the door")
	}
	if !(nix.Builder{}).AtOnce().Evaluates.Hurry() {
		t.Error("who waits for an answer is in no hurry")
	}
}

// TestUnchanged: a machine that boots waits for no evaluation if the flake is as it was, and for one if
// it is not, or if what was built is gone.
func TestUnchanged(t *testing.T) {
	text := strings.Replace(slowFleet, "TOPLEVEL", `derivation { name = "top"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo WORD > $out" ]; }`, 1)
	write := func(dir, word string) {
		if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(strings.Replace(text, "WORD", word, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	word := filepath.Base(t.TempDir()) + strconv.Itoa(os.Getpid()) // nothing that an earlier run built
	n, dir := flake(t, "")
	write(dir, word)
	n.Roots, n.Evaluations = t.TempDir(), nix.NewQueue(1) // the roots are not in the flake
	f, h := following(t, n, dir, hosts.Choices{})
	build := func(token string) *hostBuild {
		h.Boot.Token, h.Boot.TakenBy = token, "10.0.0.2"
		f.startBuild(t.Context(), h, "")
		b := f.builds["a"]
		<-b.done
		if b.err != nil {
			t.Fatal(b.err)
		}
		return b
	}
	first := build("")
	leave, err := n.Evaluations.Enter(t.Context(), nix.Waiter{}) // from now on an evaluation has to wait
	if err != nil {
		t.Fatal(err)
	}
	if b := build("1"); b == first || b.system.path != first.system.path || b.digest != first.digest || b.layout == nil {
		t.Errorf("it is %s now, it was %s", b.system, first.system)
	}
	leave()
	write(dir, word+"2")
	second := build("2")
	if second.system.path == first.system.path {
		t.Error("a flake that changed was not evaluated")
	}
	if err := os.RemoveAll(n.Roots); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nix-store", "--delete", second.system.path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b := build("3"); b.system.path != second.system.path {
		t.Errorf("%s", b.system.path)
	} else if _, err := os.Stat(b.system.path); err != nil {
		t.Errorf("what was gone was not built again: %v", err)
	}
}

// TestCancelEndsBuild: cancel ends a build that runs ahead of the machine, which builds again once it is enrolled again.
func TestCancelEndsBuild(t *testing.T) {
	n, dir := flake(t, fleet)
	n.Evaluations = nix.NewQueue(1)
	f, h := following(t, n, dir, hosts.Choices{})
	leave, err := f.Nix.Evaluations.Enter(t.Context(), nix.Waiter{}) // the build is under way until this leaves
	if err != nil {
		t.Fatal(err)
	}
	f.reconcile(t.Context(), h)
	first := f.builds["a"]
	if first == nil || first.over() {
		t.Fatal("there is no build that runs ahead")
	}

	if h, err = f.Hosts.Apply("a", hosts.Event{Kind: hosts.EventCancelled}); err != nil {
		t.Fatal(err)
	}
	f.reconcile(t.Context(), h)
	if !first.over() {
		t.Error("the build goes on after its host was cancelled")
	}
	events, err := f.Hosts.Events("a", 0)
	said := slices.ContainsFunc(events, func(ev hosts.Event) bool { return strings.Contains(ev.Message, "its build was ended") })
	if err != nil || !said {
		t.Errorf("the host's log does not say so: %v", err)
	}
	if h, err = f.Hosts.Get("a"); err != nil || h.State != hosts.StateFailed || h.Error != "cancelled by the operator" {
		t.Errorf("it is %s: %s, %v", h.State, h.Error, err)
	}

	if h, err = f.Hosts.Enroll(h, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	f.reconcile(t.Context(), h)
	leave()
	second := f.builds["a"]
	if second == nil || second == first {
		t.Fatal("it is not built again")
	}
	<-second.done // the flake has no host a, which nix says
	if second.err == nil || !strings.Contains(second.err.Error(), "has no nixosConfigurations.a") {
		t.Errorf("it was not evaluated again: %v", second.err)
	}
}
