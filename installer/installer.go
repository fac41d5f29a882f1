// Package installer turns a live installer into an installed host, over SSH.
//
// install (install.go) goes from a live installer to a machine that restarts from its own disk. Around it a reconciler
// takes one host through its states, and picks up where a server that was killed left off. It may import what
// house_test.go says; pxe and the operator's API are not among that: they meet in hosts.
package installer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/images"
	"provision/internal/cache"
	"provision/internal/nix"
)

// Installer installs every host of the inventory that is to be installed. Its
// exported fields are its options.
type Installer struct {
	Hosts  *hosts.Inventory
	Images *images.Catalog
	Nix    nix.Builder
	Key    *ed25519.PrivateKey // logs in to installers
	Log    *slog.Logger
	Now    func() time.Time

	// Cache, if there is one, is served over HTTP on CachePort of each address that machines reach us by; they fetch
	// their systems from it.
	Cache     *cache.Cache
	CachePort int

	// Program returns the path of our own program for machines of that architecture (images.Arch).
	Program func(arch string) (string, error)
	// Wake sends magic packets for a MAC.
	Wake func(ctx context.Context, mac string) error

	// Temp is the folder for what lasts as long as Run; empty: the system's.
	Temp string

	// LiveWithin is how long after its boot an installer may take until it
	// answers; the same again is how long a lost one may stay away.
	LiveWithin time.Duration

	signer ssh.Signer
	run    string // folder for the agent's socket and pinned keys

	mu       sync.Mutex
	builds   map[string]*hostBuild // by host
	building sync.WaitGroup
}

// Run installs until ctx ends, and then returns nil.
func (in *Installer) Run(ctx context.Context) (err error) {
	if in.signer, err = ssh.NewSignerFromKey(in.Key); err != nil {
		return fmt.Errorf("use the server's SSH key: %w", err)
	}
	if in.run, err = os.MkdirTemp(in.Temp, "provision-"); err != nil {
		return fmt.Errorf("make a folder for this run: %w", err)
	}
	defer os.RemoveAll(in.run)

	in.builds = make(map[string]*hostBuild)

	var reconcilers sync.WaitGroup
	defer in.building.Wait()

	defer reconcilers.Wait()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	agentDone, err := in.serveAgent(ctx)
	if err != nil {
		return err
	}
	defer func() { cancel(); <-agentDone }()

	changes := in.Hosts.Watch(ctx)
	all, err := in.Hosts.List()
	if err != nil {
		return err
	}

	wake := make(map[string]chan struct{})
	start := func(name string) {
		ch, running := wake[name]
		if !running {
			ch = make(chan struct{}, 1)
			wake[name] = ch
			reconcilers.Go(func() { in.reconcileHost(ctx, name, ch) })
		}
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	kept := make(map[string]bool)
	for _, h := range all {
		kept[h.Name] = true
		start(h.Name)
	}

	if err := in.Nix.Release(func(host string) bool { return !kept[host] }); err != nil {
		in.Log.Error("release what was built for forgotten hosts", "err", err)
	}

	for name := range changes {
		start(name)
	}
	return nil
}

// reconcileHost does for one host what its state asks for, again and again.
func (in *Installer) reconcileHost(ctx context.Context, name string, wake <-chan struct{}) {
	f := &reconciler{Installer: in, name: name, wake: wake}
	for ctx.Err() == nil {
		h, err := in.Hosts.Get(name)
		switch {
		case errors.Is(err, hosts.ErrNotFound):
			f.release()
		case err != nil:
			in.Log.Error("read a host", "host", name, "err", err)
		}

		wait := f.reconcile(ctx, h)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-wait:
		}
	}
}

// release ends the build of a host that was forgotten and lets the garbage collector have it.
func (f *reconciler) release() {
	f.endBuild()
	if err := f.Nix.Release(func(host string) bool { return host == f.name }); err != nil {
		f.Log.Error("release what was built for a forgotten host", "host", f.name, "err", err)
	}
}

// reconciler is one host's company.
type reconciler struct {
	*Installer
	name    string
	wake    <-chan struct{}
	outlook outlook
}

// reconcile does one thing for the host and returns when to look again if nothing
// changes before.
func (f *reconciler) reconcile(ctx context.Context, h hosts.Host) <-chan time.Time {
	isUnwanted := h.State != "" && !h.Permit.Live(f.Now()) // cancelled, most likely
	if isUnwanted && f.endBuild() {
		f.note("its build was ended, for there is no permit to install it any more")
	}
	switch h.State {
	case hosts.StateReady, hosts.StateBooting, hosts.StateLive, hosts.StateInstalling:
		if !h.Permit.Live(f.Now()) {
			f.fail(h.Phase, errors.New("the permit expired, or was used for too many boots: enroll the host again"))
			return nil
		}
		if h.Hardware.Tool == "" { // else the machine is looked at first
			f.startBuild(ctx, h, "")
		}
		if h.Boot.Token == "" && !h.MustBeBroughtUp() { // pxe wakes us, or the permit's end
			return time.After(h.Permit.Expires.Sub(f.Now()))
		}
		var s *session
		if fetched(h, f.Now()) {
			s = f.contact(ctx, h)
		}
		if s == nil && h.MustBeBroughtUp() {
			f.bootInstaller(ctx, h)
			return time.After(contactEvery)
		}
		if s == nil {
			return f.overdue(h)
		}
		f.work(ctx, h, s)
		return time.After(contactEvery)
	case hosts.StateInstalled:
		// A reinstall was cancelled while its machine was on the way to the installer.
		if used := h.Boot.Used; !used.IsZero() && h.Permit.Burned.IsZero() && f.Now().Sub(used) < f.LiveWithin {
			for _, addr := range addresses(h) {
				f.restartInstaller(ctx, h, addr)
			}
			return time.After(10 * verifyEvery)
		}
	case hosts.StateRebooting:
		if f.verify(ctx, h) {
			return nil
		}
		return time.After(verifyEvery)
	case hosts.StateFailed:
		if !h.Lost.IsZero() && h.Disconnects <= maxLosses && h.Permit.Live(f.Now()) {
			// It was away for too long; it may still come back as it was.
			if s := f.contact(ctx, h); s != nil {
				f.work(ctx, h, s)
			}
			return time.After(10 * verifyEvery)
		}

		// Installed, but it did not come up in time: it may still do so, for
		// instance when somebody types its passphrase in the evening.
		if h.Restarting() && !f.verify(ctx, h) {
			return time.After(10 * verifyEvery)
		}
	}

	return nil
}

// maxLosses bounds how often an install goes on in one boot: something that
// takes the connection down each time would go round for ever.
const maxLosses = 10

const (
	contactEvery = time.Second
	lostPause    = 3 * time.Second // after a session broke; the network may come and go several times in a second
	verifyEvery  = 2 * time.Second
)

// contact tries the installer of the host's boot at every address that the
// machine may have. The right machine is the one that has the key.
func (f *reconciler) contact(ctx context.Context, h hosts.Host) *session {
	if f.Now().Sub(h.Lost) < lostPause {
		return nil
	}
	likely := addresses(h)
	for i, addr := range slices.Concat(likely, f.newcomers(h)) {
		s, _, _, err := dial(ctx, addr, h.Boot.Port, h.Boot.HostKey, f.signer)
		if errors.Is(err, errWrongKey) && i < len(likely) {
			f.note("%s answers SSH with another key than this boot's; not touched", addr)
			continue
		}
		if err != nil {
			f.Log.Debug("no contact", "host", h.Name, "addr", addr, "err", err)
			continue
		}

		_, err = f.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.EventContacted, Address: addr, Boot: &h.Boot,
			Message: "the installer answers at " + addr + " with this boot's key"})
		if err != nil { // a new boot or a cancel came first
			f.Log.Info("contact not wanted any more", "host", h.Name, "err", err)
			s.client.Close()
			return nil
		}

		if mac := neighbour(addr); mac != "" && !slices.Contains(h.MACs, mac) {
			f.note("the installer at %s has the MAC %s, which is not one of %s's (%s); it has this boot's key, so "+
				"it is taken for the "+
				"machine: see that it is, or that nothing forges ARP answers", addr, mac, h.Name, strings.Join(h.MACs, ", "))
		}
		return s
	}

	return nil
}

// overdue fails a host whose installer does not answer in time.
func (f *reconciler) overdue(h hosts.Host) <-chan time.Time {
	if h.Connected { // left over from a server that was killed
		f.apply(hosts.Event{Kind: hosts.EventLost, Message: "the installer does not answer any more"})
		return time.After(0)
	}
	since := h.Boot.Started
	if h.Lost.After(since) {
		since = h.Lost
	}
	if h.State == hosts.StateReady || f.Now().Sub(since) < f.LiveWithin {
		return time.After(contactEvery)
	}
	if h.State == hosts.StateLive || h.State == hosts.StateInstalling {
		f.fail(h.Phase, fmt.Errorf("the installer at %s stopped answering and did not come back within %s; "+
			"netboot the machine again and the install goes on under the same permit", h.Address, f.LiveWithin))
		return nil
	}

	why := "the machine was offered a boot and did not fetch it all; see its screen, and `provision logs " + h.Name + "` for what it fetched"
	if !h.Boot.Used.IsZero() {
		why = "the machine fetched kernel and initrd, but the installer did not answer SSH with this boot's key; " +
			"see its screen: " +
			"does the image's command line hold its own init=, and has it a driver for the network card?"
	}
	f.fail(hosts.PhaseNetboot, fmt.Errorf("no installer after %s: %s", f.LiveWithin, why))
	return nil
}

// fetched reports whether the host's machine may have its installer: it has the
// initrd whole, or it has begun so long ago that we may have been killed
// between the last byte and the note of it.
func fetched(h hosts.Host, now time.Time) bool {
	return !h.Boot.Used.IsZero() || h.Boot.TakenBy != "" && now.Sub(h.Boot.Taken) > time.Minute
}

// work runs the story over a session, and says how it ended.
func (f *reconciler) work(ctx context.Context, h hosts.Host, s *session) {
	server := ctx // a build goes on when the session breaks
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	up, down := context.WithCancel(context.WithoutCancel(ctx)) // disks are closed after a cancel
	watching.Go(func() { cancel(s.watch(up)) })
	watching.Go(func() { f.untilUnwanted(ctx, h, cancel) })
	job := &install{reconciler: f, host: h, session: s}
	phase, err := job.run(ctx, func(hardware string) { f.startBuild(server, h, hardware) })
	cause := context.Cause(ctx)
	cancel(nil)
	if errors.Is(cause, errUnwanted) {
		f.giveBack(up, s)
	}
	if err != nil && cause == nil && !errors.Is(err, errLost) {
		job.keepJournal(up)
	}

	down()
	watching.Wait()
	switch {
	case err == nil, errors.Is(cause, errUnwanted):
	case errors.Is(err, errLost) || errors.Is(cause, errLost):
		f.apply(hosts.Event{Kind: hosts.EventLost, Phase: phase, Message: fmt.Sprintf("lost the installer during "+
			"%s: %v; it goes on when the machine is back", phase, err)})
		if now, getErr := f.Hosts.Get(f.name); getErr == nil && now.Disconnects > maxLosses {
			f.fail(phase, fmt.Errorf("the installer was lost %d times in one boot; the last time: %w", now.Disconnects, err))
		}
	case cause != nil: // the server stops
	default:
		f.fail(phase, err)
	}
}

// errUnwanted: the operator cancelled, or the machine got another boot.
var errUnwanted = errors.New("not wanted any more")

// untilUnwanted ends the work when the host's boot or permit does.
func (f *reconciler) untilUnwanted(ctx context.Context, h hosts.Host, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}

		now, err := f.Hosts.Get(h.Name)
		gone := errors.Is(err, hosts.ErrNotFound)
		cancelled := err == nil && (now.State == hosts.StateFailed || now.State == hosts.StateInstalled)
		if gone || cancelled || (err == nil && (now.Boot.Token != h.Boot.Token ||
			!now.Permit.Issued.Equal(h.Permit.Issued))) {
			cancel(errUnwanted)
			return
		}
	}
}

// giveBack restarts a machine whose reinstall ended before its disks were touched.
func (f *reconciler) giveBack(ctx context.Context, s *session) {
	h, err := f.Hosts.Get(f.name)
	if err != nil || !h.HasInstalled() {
		return
	}
	if err := restart(ctx, s); err != nil {
		f.note("its disks were not touched; restart it by hand: %v", err)
		return
	}
	f.note("its disks were not touched; restarting into what is installed there")
}

func (f *reconciler) apply(ev hosts.Event) {
	_, err := f.Hosts.Apply(f.name, ev)
	switch {
	case err == nil:
	case errors.Is(err, hosts.ErrNotFound), errors.Is(err, hosts.ErrRefused): // an operator came first
		f.Log.Info("event not wanted any more", "host", f.name, "event", ev.Kind, "err", err)
	default:
		f.Log.Error("record an event", "host", f.name, "event", ev.Kind, "err", err)
	}
}

func (f *reconciler) note(format string, args ...any) {
	f.apply(hosts.Event{Kind: hosts.EventNote, Message: fmt.Sprintf(format, args...)})
}

func (f *reconciler) fail(phase hosts.Phase, err error) {
	f.apply(hosts.Event{Kind: hosts.EventFailed, Phase: phase, Message: err.Error()})
}
