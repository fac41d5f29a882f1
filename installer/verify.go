package installer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"provision/hosts"
)

// RebootWithin is how long an installed host may take to show itself from its own disk, but for the time in which it
// waits for a passphrase. After that it counts as failed, and is still looked for.
const RebootWithin = time.Hour

const (
	// otherFor is how long a host may run another system than the one that was installed: somebody may have chosen
	// another generation, or it is about to restart.
	otherFor = 2 * time.Minute
	// muteFor is how long a host may prove its key and not say what it runs, as it does while it still starts.
	muteFor = time.Minute
	// awayFor is how long an installer must not answer, so that the machine has left it.
	awayFor = 10 * time.Second
	// openedFor is how long stage 1 must not answer, so that it does not wait any more.
	openedFor = 10 * time.Second
	// maxReturns is how often a restarted machine may come back to the network before that is a failure.
	maxReturns = 4
)

// outlook is since when a restarted machine does what it does.
type outlook struct {
	restarted time.Time // which restart it is about
	other     time.Time // it runs another system
	mute      time.Time // it does not say what it runs
	away      time.Time // its installer does not answer
	opened    time.Time // its stage 1 does not answer, which waited for a passphrase
}

// since starts a clock that does not run, and reports whether it runs for so long.
func (f *reconciler) since(clock *time.Time, limit time.Duration) bool {
	if clock.IsZero() {
		*clock = f.Now()
	}
	return f.Now().Sub(*clock) >= limit
}

// verify asks whether the host came up from its own disk: it must answer with the key that was made for it. Where it
// lets us in, it must also run the system that we built. True: there is nothing more to ask.
func (f *reconciler) verify(ctx context.Context, h hosts.Host) bool {
	if !f.outlook.restarted.Equal(h.Permit.Spent) {
		f.outlook = outlook{restarted: h.Permit.Spent}
	}
	best := sshAnswer{}
	for _, addr := range addresses(h) {
		for _, port := range portsOf(h) {
			a := f.ask(ctx, h, addr, port)
			if a.who == theHost && f.accept(h, a) {
				return true
			}
			if a.who == stranger {
				f.note("%s answers SSH with another key than %s has, or none that it is known by; not "+
					"believed", a.at(), h.Name)
			}
			if a.who > best.who {
				best = a
			}
		}
	}
	if ctx.Err() != nil {
		return false
	}

	if best.who == installerUp {
		f.outlook.away = time.Time{}
		f.restartInstaller(ctx, h, best.addr)
		return false
	}

	f.waits(h, best)
	away := f.since(&f.outlook.away, awayFor)
	if proof := lesserProof(h, best, away); proof != "" {
		f.apply(hosts.Event{Kind: hosts.EventProved, Message: proof})
		return true
	}
	f.giveUp(h)
	return false
}

// portsOf are where the host, its installer or its stage 1 may answer.
func portsOf(h hosts.Host) []int {
	ports := slices.Clone(h.SSHPorts())
	for _, port := range []int{cmp.Or(h.Boot.Port, 22), h.Expected.Stage1.Port} {
		if port != 0 && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// accept takes an answer with the host's key for its proof, if what it runs is as it should be.
func (f *reconciler) accept(h hosts.Host, a sshAnswer) bool {
	proof := fmt.Sprintf("%s answers at %s with its own SSH key", h.Name, a.at())
	switch {
	case a.system == h.System && a.system != "":
		proof += " and runs " + h.System
	case a.system != "":
		late := f.since(&f.outlook.other, otherFor)
		wrong := fmt.Errorf("%s runs %s, not %s", h.Name, a.system, h.System)
		if late && h.State == hosts.StateRebooting {
			f.fail(hosts.PhaseReboot, fmt.Errorf("%w, %s after it was first asked: look at its boot loader's choice. "+
				"It counts as installed as soon as it runs what was installed", wrong, otherFor))
		} else if h.State == hosts.StateRebooting {
			f.note("%v; it is asked again", wrong)
		}
		return false
	case a.mute && !f.since(&f.outlook.mute, muteFor):
		f.Log.Debug("ask for the running system", "host", h.Name, "err", a.why)
		return false
	default:
		proof += fmt.Sprintf("; %v, so the system it runs was not compared", a.why)
	}

	if a.addr != h.Address {
		f.apply(hosts.Event{Kind: hosts.EventAddress, Address: a.addr, Message: "has address " + a.addr})
	}
	f.apply(hosts.Event{Kind: hosts.EventProved, Port: a.port, Message: proof})
	return true
}

// waits tells where stage 1 waits for a passphrase, and when it does not any more.
func (f *reconciler) waits(h hosts.Host, a sshAnswer) {
	switch {
	case a.who == inStage1 || a.who == unclear && a.port == h.Expected.Stage1.Port:
		f.outlook.opened = time.Time{}
		if h.Restart.Waits == a.at() {
			return
		}
		message := "waits for its passphrase at " + a.at()
		if a.who == unclear {
			message = fmt.Sprintf("answers at %s with its own SSH key, and may be its stage 1 that waits for its "+
				"passphrase, which has that key, too: %v, "+
				"so this server cannot tell", a.at(), a.why)
		}
		f.apply(hosts.Event{Kind: hosts.EventWaits, Address: a.at(), Message: message})
	case h.Restart.Waits != "" && f.since(&f.outlook.opened, openedFor):
		f.outlook.opened = time.Time{}
		f.apply(hosts.Event{Kind: hosts.EventWaits, Message: "does not wait at " + h.Restart.Waits + " any more"})
	}
}

// lesserProof is what counts where the operator asked for less than the host's own key; empty: nothing yet.
func lesserProof(h hosts.Host, a sshAnswer, away bool) string {
	switch {
	case !away, a.who >= inStage1, h.Restart.Returns > 1:
		return ""
	case h.Proof == hosts.ProofNone:
		return fmt.Sprintf("%s left the installer for its disk; nothing was proved, as --proof none asks for", h.Name)
	case h.Proof != hosts.ProofSeen:
		return ""
	case h.Restart.Seen != "":
		return "seen: " + h.Restart.Seen
	case a.who == stranger && a.onMachine(h):
		return fmt.Sprintf("seen: an SSH server answers at %s, with a key that %s is not known by", a.at(), h.Name)
	}

	return ""
}

// giveUp fails a host that does not show itself in time, or that its machine does not start.
func (f *reconciler) giveUp(h hosts.Host) {
	since := h.Since
	if h.Restart.Waited.After(since) {
		since = h.Restart.Waited
	}
	switch {
	case h.State != hosts.StateRebooting:
	case h.Restart.Returns >= maxReturns:
		f.fail(hosts.PhaseReboot, fmt.Errorf("%s came back to the network %d times since it was told to start from "+
			"its disk: %s. "+
			"It counts as installed as soon as it answers", h.Name, h.Restart.Returns, hosts.LookAt))
	case h.Restart.Waits == "" && f.Now().Sub(since) > RebootWithin:
		f.fail(hosts.PhaseReboot, fmt.Errorf("%s did not answer with its own SSH key within %s of the restart; see "+
			"its screen: "+
			"it may wait for a disk passphrase, or start something else. It counts as installed as soon as it answers", h.Name, RebootWithin))
	}
}

// restartInstaller reboots an installer that still runs because the server was
// killed between the event and the command.
func (f *reconciler) restartInstaller(ctx context.Context, h hosts.Host, addr string) {
	s, _, _, err := dial(ctx, addr, h.Boot.Port, h.Boot.HostKey, f.signer)
	if err != nil {
		return
	}
	defer s.client.Close()
	if err := restart(ctx, s); err != nil {
		f.note("restart the installer at %s: %v", addr, err)
	}
}
