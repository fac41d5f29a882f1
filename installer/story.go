package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"provision/disko"
	"provision/hosts"
)

// install is the story: from a live installer to a machine that restarts from
// its own disk. It returns the phase that it came to.
func (f *follower) install(ctx context.Context, h hosts.Host, s *session) (hosts.Phase, error) {
	// Commands of a server that was killed may still run: they hold the lock.
	if _, err := s.run(ctx, nil, "flock", lockFile, "true"); err != nil {
		return hosts.PhaseFacts, err
	}
	if err := f.facts(ctx, h, s); err != nil {
		return hosts.PhaseFacts, err
	}
	f.begin(hosts.PhaseBuild)
	b, err := f.built(ctx)
	if err != nil {
		return hosts.PhaseBuild, err
	}
	plan, err := f.disks(ctx, h, s, b)
	if err != nil {
		return hosts.PhaseDisks, err
	}
	if err := f.copyClosure(ctx, h, s, b); err != nil {
		return hosts.PhaseCopy, err
	}
	if err := f.files(ctx, h, s); err != nil {
		return hosts.PhaseFiles, err
	}
	if err := f.bootloader(ctx, s, b); err != nil {
		return hosts.PhaseBootloader, err
	}
	return hosts.PhaseReboot, f.reboot(ctx, s, plan)
}

func (f *follower) begin(p hosts.Phase) { f.apply(hosts.Event{Kind: hosts.Started, Phase: p}) }

func (f *follower) finished(p hosts.Phase, format string, args ...any) {
	f.apply(hosts.Event{Kind: hosts.Finished, Phase: p, Message: fmt.Sprintf(format, args...)})
}

func (f *follower) advance(p hosts.Phase, done, total int64, unit string) {
	f.apply(hosts.Event{Kind: hosts.Advanced, Phase: p, Progress: &hosts.Progress{Done: done, Total: total, Unit: unit}})
}

// disks burns the permit and makes the layout, or finds it made already in
// this very boot by a server that was killed since.
func (f *follower) disks(ctx context.Context, h hosts.Host, s *session, b *build) (*disko.Plan, error) {
	// Read now, not before the build: device names move when disks are plugged.
	facts, err := f.readDisks(ctx, s)
	if err != nil {
		return nil, err
	}
	plan, err := disko.NewPlan(b.layout, facts, disko.Options{Disks: h.Options.Disks})
	if err != nil {
		return nil, err
	}
	resumed := h.Layout == b.digest && s.mounted(ctx)
	ev := hosts.Event{Kind: hosts.Burned, Disks: permitDisks(plan), Message: "burned the permit for " + diskWords(plan)}
	if !h.Permit.Burned.IsZero() {
		ev.Message = "goes on under the burned permit, for " + diskWords(plan)
	}
	if _, err := f.Hosts.Apply(h.Name, ev); err != nil {
		return nil, err
	}
	f.begin(hosts.PhaseDisks)
	if resumed {
		f.finished(hosts.PhaseDisks, "the disks were made and mounted before the interruption")
		return plan, nil
	}
	if err := f.sendDiskKeys(ctx, h, s, plan); err != nil {
		return nil, err
	}
	start := f.Now()
	for i, step := range plan.Steps {
		f.advance(hosts.PhaseDisks, int64(i), int64(len(plan.Steps)), "steps")
		if err := runStep(ctx, s, step); err != nil {
			return nil, fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	for _, d := range plan.Tables() {
		table, err := readTable(ctx, s, d)
		if err == nil {
			err = plan.Verify(d.Device, table)
		}
		if err != nil {
			return nil, fmt.Errorf("read back the partition table of %s: %w", d.Device, err)
		}
	}
	f.apply(hosts.Event{Kind: hosts.Finished, Phase: hosts.PhaseDisks, Layout: b.digest,
		Message: fmt.Sprintf("%d steps in %s; the partition table was read back and is as planned", len(plan.Steps), since(f.Now(), start))})
	return plan, nil
}

// lockFile is held on the machine by whatever changes it: sshd does not end
// the commands of a server that was killed.
const lockFile = "/run/provision.lock"

func locked(argv ...string) []string { return append([]string{"flock", "-o", lockFile}, argv...) }

// mounted reports whether the new root is in its place. What was recorded
// before an interruption is only believed if the machine says the same.
func (s *session) mounted(ctx context.Context) bool {
	_, err := s.run(ctx, nil, "mountpoint", "-q", "/mnt")
	return err == nil
}

func runStep(ctx context.Context, s *session, step disko.Step) error {
	argv := locked(step.Argv...)
	if step.Stdin != "" {
		// A passphrase is the file without the newlines at its end, as disko
		// reads it. The script is constant; the data are its arguments.
		const feed = `set -e; secret=$(cat -- "$0"); printf %s "$secret" | "$@"`
		argv = append([]string{"sh", "-c", feed, step.Stdin}, argv...)
	}
	_, err := s.run(ctx, nil, argv...)
	return err
}

func permitDisks(p *disko.Plan) (disks []hosts.Disk) {
	for _, d := range p.Disks {
		disks = append(disks, hosts.Disk{Device: d.Device, Model: d.Model, Serial: d.Serial, Size: d.Size})
	}
	return disks
}

func diskWords(p *disko.Plan) string {
	var words []string
	for _, d := range p.Disks {
		w := fmt.Sprintf("%s (%.1f GB", d.Device, float64(d.Size)/1e9)
		if id := strings.TrimSpace(d.Model + " " + d.Serial); id != "" {
			w += ", " + id
		}
		words = append(words, w+")")
	}
	return strings.Join(words, ", ")
}

// bootloader makes the copied system the one that starts.
func (f *follower) bootloader(ctx context.Context, s *session, b *build) error {
	f.begin(hosts.PhaseBootloader)
	start := f.Now()
	_, err := s.run(ctx, nil, locked("nixos-install", "--root", "/mnt", "--system", b.system, "--no-root-passwd", "--no-channel-copy")...)
	if err == nil {
		f.finished(hosts.PhaseBootloader, "nixos-install took %s", since(f.Now(), start))
	}
	return err
}

// reboot leaves the installer. The event comes first: the machine may ask to
// netboot within seconds, and must then be sent to its disk.
func (f *follower) reboot(ctx context.Context, s *session, plan *disko.Plan) error {
	if err := removeDiskKeys(ctx, s, plan); err != nil {
		return err
	}
	for _, step := range plan.Unmount() {
		if err := runStep(ctx, s, step); err != nil {
			return fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	if _, err := f.Hosts.Apply(f.name, hosts.Event{Kind: hosts.Rebooted, Message: "everything is on the disk; restarting from it"}); err != nil {
		return err
	}
	return restart(ctx, s)
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

func since(now, start time.Time) time.Duration { return now.Sub(start).Round(100 * time.Millisecond) }

// write writes a file on the machine, mode as given, from data that never
// appears in a command line. Its folder is made if need be.
func (s *session) write(ctx context.Context, path, mode string, data io.Reader) error {
	const script = `set -e; umask 077; mkdir -p -- "$(dirname -- "$0")"; cat >"$0.part"; chmod "$1" "$0.part"; mv -f -- "$0.part" "$0"`
	if _, err := s.run(ctx, data, "sh", "-c", script, path, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
