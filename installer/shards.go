package installer

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"provision/disko"
)

// maxLanes bounds how many disks are worked on at a time: an sshd takes ten sessions in a
// connection (sshd_config(5), MaxSessions).
const maxLanes = 8

// run runs steps, those of different disks at a time where these do not depend on each other. The
// first that fails ends all; anyway goes on after it.
func (d *Disks) run(ctx context.Context, steps []disko.Step, anyway bool) error {
	p := progress{tell: d.Tell, total: len(steps)}
	for _, lanes := range disko.Concurrent(steps) {
		p.lanes = make([]int, len(lanes))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(maxLanes)
		for i, lane := range lanes {
			b := batch{steps: lane, anyway: anyway, shared: len(lanes) > 1, log: cmp.Or(d.Log, slog.New(slog.DiscardHandler))}
			if d.Tell != nil {
				b.tell = func(n int) { p.now(i, n, lane[n]) }
			}
			g.Go(func() error {
				if ctx.Err() != nil { // another has failed
					return context.Cause(ctx)
				}
				err := b.run(ctx, d.session())
				p.now(i, len(lane), disko.Step{})
				return err
			})
		}

		if err := g.Wait(); err != nil {
			return err
		}

		for _, lane := range lanes {
			p.done += len(lane)
		}
	}

	return nil
}

// progress adds up what lanes do.
type progress struct {
	tell  func(done, total int, step disko.Step)
	total int
	done  int // in lanes that are over

	mu    sync.Mutex
	lanes []int // how many steps each is past
}

// now notes how far a lane is, and tells which step runs there, if one does.
func (p *progress) now(lane, past int, step disko.Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes[lane] = past
	sum := p.done
	for _, n := range p.lanes {
		sum += n
	}
	if step.Name != "" {
		p.tell(sum, p.total, step)
	}
}
