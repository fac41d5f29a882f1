package installer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"provision/hosts"
)

// factsFresh is for how long a plan can be made of what the machine said of its disks.
const factsFresh = 5 * time.Second

// install is the install in hand: of one host, over a session to its live installer.
type install struct {
	*reconciler
	host    hosts.Host // as it was when the session began
	session *session
	build   *hostBuild // from when it is evaluated
	disks   *Disks     // those of the build's layout, from then
}

// run is the story: from a live installer to a machine that restarts from
// its own disk. It returns the phase that it came to. build starts the build, if it was not
// started yet.
func (i *install) run(ctx context.Context, build func(hardware string)) (at hosts.Phase, err error) {
	// Commands of a server that was killed may still run: they hold the lock.
	limit := commandLimit
	if i.host.Layout != "" && i.host.BuildOn != hosts.BuildServer { // it may be a build
		limit = buildLimit
	}
	facts, err := i.facts(ctx, limit)
	if err != nil {
		return hosts.PhaseFacts, err
	}

	read := time.Now()
	hardware, err := i.hardware(ctx)
	if err != nil {
		return hosts.PhaseFacts, err
	}

	i.begin(hosts.PhaseBuild)
	build(hardware)
	if i.build, err = i.evaluated(ctx); err != nil {
		return hosts.PhaseBuild, err
	}
	if dir := i.host.ExtraFiles; dir != "" {
		if err := hosts.CheckExtraFiles(dir); err != nil {
			return hosts.PhaseBuild, err
		}
	}

	i.disks = i.newDisks()
	if time.Since(read) < factsFresh {
		i.disks.facts = facts
	}
	if i.host.Permit.DryRun {
		if err := i.built(ctx, i.build); err != nil {
			return hosts.PhaseBuild, err
		}
		return hosts.PhaseDisks, i.rehearse(ctx)
	}

	defer func() {
		if err != nil && at != hosts.PhaseDisks && at != hosts.PhaseBuild {
			err = explainFull(ctx, i.session, err)
		}
		i.closeAfter(ctx, err)
	}()

	if !i.mayFormat(ctx) {
		if err := i.built(ctx, i.build); err != nil {
			return hosts.PhaseBuild, err
		}
	}

	share, done := i.shareEarly(ctx)
	defer done()

	if err := i.makeDisks(ctx); err != nil {
		return hosts.PhaseDisks, err
	}
	if err := i.built(ctx, i.build); err != nil {
		return hosts.PhaseBuild, fmt.Errorf("%w\nthe disks are made and stay so: `provision retry` goes on from there", err)
	}
	if at, err := i.fill(ctx, share); err != nil {
		return at, err
	}

	return hosts.PhaseReboot, i.reboot(ctx)
}

func (f *reconciler) begin(p hosts.Phase) { f.apply(hosts.Event{Kind: hosts.EventStarted, Phase: p}) }

func (f *reconciler) finished(p hosts.Phase, format string, args ...any) {
	f.apply(hosts.Event{Kind: hosts.EventFinished, Phase: p, Message: fmt.Sprintf(format, args...)})
}

func (f *reconciler) advance(p hosts.Phase, done, total int64, unit string) {
	f.apply(hosts.Event{
		Kind:     hosts.EventAdvanced,
		Phase:    p,
		Progress: &hosts.Progress{Done: done, Total: total, Unit: unit},
	})
}

// waitsFor shows what goes on, if that began before what was shown last.
func (f *reconciler) waitsFor(p hosts.Phase, now string) {
	f.apply(hosts.Event{Kind: hosts.EventAdvanced, Phase: p, Progress: &hosts.Progress{Now: now}})
}

// lockFile is held on the machine by whatever changes it: sshd does not end
// the commands of a server that was killed.
const lockFile = "/run/provision.lock"

func exclusiveLock(argv ...string) []string {
	return append([]string{"flock", "-o", lockFile}, argv...)
}

// sharedLock is locked for what may run beside others of its like, and beside nothing else.
func sharedLock(argv ...string) []string {
	return append([]string{"flock", "-s", "-o", lockFile}, argv...)
}

// bootloader makes the copied system the one that starts, and lets the TPM open its disks.
func (i *install) bootloader(ctx context.Context) error {
	i.begin(hosts.PhaseBootloader)
	before, err := i.boots(ctx)
	if err != nil {
		return err
	}

	start := i.Now()
	_, err = i.session.run(ctx, nil, sharedLock("nixos-install", "--root", "/mnt", "--system", i.build.system.path, "--no-root-passwd", "--no-channel-copy")...)
	if err != nil {
		return err
	}

	took := elapsed(i.Now(), start)
	order, err := i.diskFirst(ctx, before)
	if err != nil {
		return err
	}

	firmware, err := i.putFirmware(ctx, i.build.layout)
	if err != nil {
		return err
	}

	enrolled, err := i.enrollTPM2(ctx, i.disks.plan)
	if err == nil {
		i.finished(hosts.PhaseBootloader, "nixos-install took %s%s%s%s", took, order, firmware, enrolled)
	}
	return err
}

// explainFull says which of the new file systems are full, if any: what ran
// into that often tells it badly.
func explainFull(ctx context.Context, s *session, err error) error {
	out, dfErr := s.run(ctx, nil, "df", "-kP")
	if dfErr != nil { // it may be why the step failed, too
		return err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line) // df -P: device, blocks, used, available, capacity, mount point
		if len(f) < 6 || !strings.HasPrefix(f[5], "/mnt") {
			continue
		}
		size, sizeErr := strconv.ParseInt(f[1], 10, 64)
		free, freeErr := strconv.ParseInt(f[3], 10, 64)
		if sizeErr == nil && freeErr == nil && size > 0 && free < min(size/50, 4<<10) {
			at := cmp.Or(strings.TrimPrefix(f[5], "/mnt"), "/")
			err = fmt.Errorf("%w\nthe new file system at %s is full (%s): make it larger in the layout, then run "+
				"`provision retry`", err, at, megabytes(size<<10))
		}
	}

	return err
}

// reboot leaves the installer. The event comes first: the machine may ask to
// netboot within seconds, and must then be sent to its disk.
func (i *install) reboot(ctx context.Context) error {
	if err := i.disks.Unmount(ctx); err != nil {
		return err
	}
	if _, err := i.Hosts.Apply(i.name, hosts.Event{Kind: hosts.EventRebooted, Message: "everything is on the disk; " +
		"restarting from it"}); err != nil {
		return err
	}
	return restart(ctx, i.session)
}

// restart asks the installer to reboot; that it breaks the connection is a
// good sign.
func restart(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := s.run(ctx, nil, "reboot")
	if errors.Is(err, errLost) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func elapsed(now, start time.Time) time.Duration { return now.Sub(start).Round(100 * time.Millisecond) }

// write writes a file on the machine, mode as given, from data that never
// appears in a command line. Its folder is made if need be.
func (s *session) write(ctx context.Context, path, mode string, data io.Reader) error {
	const script = `set -e; umask 077; mkdir -p -- "$(dirname -- "$0")"; cat >"$0.part"; chmod "$1" "$0.part"; mv -f -- "$0.part" "$0"`
	if _, err := s.run(ctx, data, "sh", "-c", script, path, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
