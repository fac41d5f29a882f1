package installer

import (
	"context"
	"errors"
	"sync"
	"time"

	"provision/hosts"
)

// mayFormat reports whether the disks may be made although the host's system is not built yet.
// They may if nobody loses anything by it should the build fail: they are blank, or the permit is burned for
// them already, so that what was on them is gone. All else, also the host's own earlier install,
// stays until there is something to put in its place.
//
// A build that fails after the disks were made leaves the permit burned and the machine in its
// installer. `provision retry` then goes on without making them again.
func (i *install) mayFormat(ctx context.Context) bool {
	switch {
	case i.build.over():
		return false // all the better: there is nothing to wait for
	case !i.host.Permit.Burned.IsZero():
		return true
	}

	plan, err := i.disks.newPlan(ctx, i.disks.Options, nil)
	if err != nil {
		return false // Make says it
	}
	for _, disk := range plan.Disks {
		if disk.Content != "blank" {
			return false
		}
	}

	return true
}

// errConcurrent ends what runs beside something that failed.
var errConcurrent = errors.New("something beside it failed")

// fill puts the system and the host's files on the new disks, and makes it start. The files come
// while the system is copied: nothing needs them before it is activated. The disks are read back, and what was copied
// goes to them, while the boot loader is installed.
func (i *install) fill(ctx context.Context, share *offer) (at hosts.Phase, err error) {
	flush, stop := i.flushing(ctx)
	defer stop()

	i.begin(hosts.PhaseFiles)
	i.begin(hosts.PhaseCopy)

	// The system is what usually takes longer; if it does not, the files are what is waited for.
	at, err = concurrently(ctx,
		func(slowest hosts.Phase) {
			if slowest == hosts.PhaseFiles {
				i.waitsFor(slowest, "")
			}
		},
		batchPart{hosts.PhaseFiles, func(ctx context.Context) error { return i.files(ctx) }},
		batchPart{hosts.PhaseCopy, func(ctx context.Context) error { return i.copySystem(ctx, share) }})
	if err != nil {
		return at, err
	}

	flush() // unmounting waits for it
	return concurrently(ctx, func(hosts.Phase) {},
		batchPart{hosts.PhaseBootloader, func(ctx context.Context) error { return i.bootloader(ctx) }},
		batchPart{hosts.PhaseDisks, func(ctx context.Context) error { return i.readBack(ctx) }})
}

// batchPart is a phase that runs beside another.
type batchPart struct {
	phase hosts.Phase
	run   func(context.Context) error
}

// concurrently runs parts at a time. The first that fails ends the others, with errBeside, and its
// error is returned once all have ended. left is told which one is still running when the others are done.
func concurrently(ctx context.Context, left func(hosts.Phase), parts ...batchPart) (at hosts.Phase, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)

	type ended struct {
		part int
		err  error
	}
	ends := make(chan ended, len(parts))
	running := make(map[int]bool)
	for i, p := range parts {
		running[i] = true
		go func() { ends <- ended{i, p.run(ctx)} }()
	}

	for range parts {
		e := <-ends
		delete(running, e.part)
		switch {
		case err != nil:
		case e.err != nil:
			at, err = parts[e.part].phase, e.err
			end(errConcurrent)
		case len(running) == 1:
			for last := range running {
				left(parts[last].phase)
			}
		}
	}

	return at, err
}

// readBack compares the disks with the plan, unless that was done.
func (i *install) readBack(ctx context.Context) error {
	if i.disks.verified {
		return nil
	}
	i.disks.filled = true
	defer func() { i.disks.filled = false }()
	if err := i.disks.verify(ctx); err != nil {
		return err
	}
	i.note("the disks were read back and are as planned")
	return nil
}

// flushing has what was written go to the disks, again and again, until it is stopped: file systems
// take their time, and memory may hold all of it. flush does it now. Nobody waits for it.
func (i *install) flushing(ctx context.Context) (flush, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	now := make(chan struct{}, 1)
	var syncer sync.WaitGroup
	syncer.Go(func() {
		tick := time.NewTicker(syncEvery)
		defer tick.Stop()

		for {
			select {
			case <-ctx.Done():
				return
			case <-now:
			case <-tick.C:
			}
			_, err := i.session.run(ctx, nil, "sync")
			i.Log.Debug("what was copied is on the disks", "host", i.name, "err", err)
		}
	})
	flush = func() {
		select {
		case now <- struct{}{}:
		default:
		}
	}
	return flush, func() { cancel(); syncer.Wait() }
}
