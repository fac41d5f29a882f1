package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/disko"
)

// Disks makes a layout's disks on a machine, and closes them. It knows of no host and of no
// events. Its exported fields are its options.
type Disks struct {
	Client  *ssh.Client // logged in as root
	Layout  *disko.Layout
	Options disko.Options
	// Key returns what is in a key file that the layout reads on the machine.
	Key func(path string) ([]byte, error)
	// Permit is asked before anything is changed on the plan's disks. Nil: they may be.
	Permit func(context.Context, *disko.Plan) error
	// Tell is told which step runs, not more than a few times in a second. It may be nil.
	Tell func(done, total int, step disko.Step)
	Log  *slog.Logger // what the steps say, at debug level; may be nil

	facts    *disko.Facts // just read, for the next plan; nil: they are to be read
	plan     *disko.Plan  // the last that was made; nil: nothing was changed
	filled   bool         // the machine is at work on what the disks hold, and they are only read
	verified bool         // the disks are as planned
}

const (
	// maxRounds bounds how often a plan that keeps something is made anew, as more of what
	// is there has been opened: once for each container inside another.
	maxRounds = 20
	// closeLimit bounds closing after a failure. What was cancelled is waited for.
	closeLimit = 2 * time.Minute
	closeTries = 3
)

// Make makes the disks, in the way of the options: at its end everything is mounted and was
// read back, and is as planned, or there is an error. It returns the number of steps that it
// took.
func (d *Disks) Make(ctx context.Context) (steps int, err error) {
	if steps, err = d.make(ctx); err == nil {
		err = d.verify(ctx)
	}
	return steps, err
}

func (d *Disks) make(ctx context.Context) (steps int, err error) {
	plan, err := d.newPlan(ctx, d.Options, nil)
	if err != nil {
		return 0, err
	}

	if d.Permit != nil {
		if err := d.Permit(ctx, plan); err != nil {
			return 0, err
		}
	}

	if d.Options.Disks != nil { // by the next look, another disk may be the largest
		d.Options.Disks = plan.Devices()
	}
	d.plan = plan
	if err := d.sendKeys(ctx); err != nil {
		return 0, err
	}
	if err := d.slowResync(ctx); err != nil {
		return 0, err
	}

	for range maxRounds {
		if err := d.run(ctx, d.plan.Steps, false); err != nil {
			return steps, err
		}
		steps += len(d.plan.Steps)
		if !d.plan.Unfinished() {
			return steps, nil
		}
		next, err := d.newPlan(ctx, d.Options, d.plan.Paths)
		if err != nil {
			return steps, err
		}

		d.plan = next
	}

	return steps, fmt.Errorf("after %d rounds of opening what the layout keeps there is still more to open; the "+
		"last was: %s", maxRounds, stepNames(d.plan.Steps))
}

// verify reads the disks back, and compares them with the plan.
func (d *Disks) verify(ctx context.Context) error {
	for _, disk := range d.plan.Tables() {
		table, err := readTable(ctx, d.session(), disk)
		if err == nil {
			err = d.plan.Verify(disk.Device, table)
		}
		if err != nil {
			return fmt.Errorf("read back the partition table of %s: %w", disk.Device, err)
		}
	}

	o := d.Options
	o.Mode = disko.Mount
	var look disko.ProbePaths
	for range maxRounds {
		plan, err := d.newPlan(ctx, o, look)
		switch {
		case err != nil:
			return fmt.Errorf("all steps ran, and the disks are not as the layout says: %w", err)
		case len(plan.Steps) > 0:
			return fmt.Errorf("all steps ran, and the disks are not as the layout says; still to do: %s", stepNames(plan.Steps))
		case len(plan.Paths) == 0:
			d.verified = true
			return nil
		}

		look = plan.Paths
	}

	return fmt.Errorf("all steps ran, and the plan for reading the disks back does not end after %d rounds", maxRounds)
}

func stepNames(steps []disko.Step) string {
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	return strings.Join(names, "; ")
}

// Unmount closes everything in the layout's order, with its hooks, and removes the key files. A step that fails is an
// error: what is the layout's is closed then.
func (d *Disks) Unmount(ctx context.Context) error {
	if err := d.run(ctx, d.plan.Unmount(), false); err != nil {
		return err
	}
	return errors.Join(d.removeKeys(ctx), d.restoreResync(ctx))
}

// Close closes whatever is mounted or open on the plan's disks and removes the key files, as
// far as that goes: for when something failed half-way. The error says what is still open.
func (d *Disks) Close(ctx context.Context) error {
	if d.plan == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, closeLimit, fmt.Errorf("the disks could not be closed within %s", closeLimit))
	defer cancel()

	removed := errors.Join(d.removeKeys(ctx), d.restoreResync(ctx))
	var closed error
	for range closeTries {
		facts, err := d.probe(ctx, nil)
		if err != nil {
			return errors.Join(removed, closed, err)
		}

		inUse := d.plan.Held(facts)
		if len(inUse) == 0 {
			return removed
		}
		closed = fmt.Errorf("still in use: %s", strings.Join(inUse, "; "))
		if err := d.run(ctx, d.plan.Close(facts), true); err != nil {
			closed = fmt.Errorf("%w: %w", closed, err)
		}
	}

	return errors.Join(removed, closed)
}

func (d *Disks) session() *session { return &session{client: d.Client} }

// newPlan plans for the machine as it is now.
func (d *Disks) newPlan(ctx context.Context, o disko.Options, look disko.ProbePaths) (_ *disko.Plan, err error) {
	facts := d.facts
	d.facts = nil
	if facts == nil || look != nil {
		if facts, err = d.probe(ctx, look); err != nil {
			return nil, err
		}
	}
	if err := look.Answered(facts); err != nil {
		return nil, err
	}
	return disko.NewPlan(d.Layout, facts, o)
}

func (d *Disks) probe(ctx context.Context, look disko.ProbePaths) (*disko.Facts, error) {
	lock := exclusiveLock
	if d.filled {
		lock = sharedLock
	}
	raw, err := readFacts(ctx, d.session(), commandLimit, lock(disko.Probe(look)...))
	if err != nil {
		return nil, err
	}
	return disko.ParseFacts(raw)
}

// sendKeys puts the disk encryption keys where the layout reads them.
func (d *Disks) sendKeys(ctx context.Context) error {
	for _, path := range d.plan.KeyFiles() {
		key, err := d.Key(path)
		if err == nil {
			err = d.session().write(ctx, path, "0400", bytes.NewReader(key))
		}
		if err != nil {
			return fmt.Errorf("deliver the disk encryption key: %w", err)
		}
	}
	return nil
}

func (d *Disks) removeKeys(ctx context.Context) error {
	keys := d.plan.KeyFiles()
	if len(keys) == 0 {
		return nil
	}
	if _, err := d.session().run(ctx, nil, append([]string{"rm", "-f", "--"}, keys...)...); err != nil {
		return fmt.Errorf("remove the disk encryption keys from the installer: %w", err)
	}
	return nil
}
