package installer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/internal/confirm"
)

// layout is what makes and closes the host's disks.
func (i *install) newDisks() *Disks {
	o := confirm.Options(i.host.Choices, i.build.script.path)
	return &Disks{
		Client: i.session.client, Layout: i.build.layout, Options: o, Log: i.Log,
		Key: func(path string) ([]byte, error) {
			key, err := i.Hosts.Secret(i.host.Name, hosts.SecretDisk(path))
			if errors.Is(err, hosts.ErrNotFound) {
				err = fmt.Errorf("the layout reads it from %s: enroll the host with --disk-encryption-key %s=FILE", path, path)
			}
			return key, err
		},
		Permit: func(ctx context.Context, p *disko.Plan) error {
			if err := i.checkBoard(i.host, i.build.layout, p); err != nil {
				return err
			}
			if err := i.checkTPM2(ctx, p); err != nil {
				return err
			}
			if err := i.burn(i.host, p); err != nil || o.Script == "" {
				return err
			}

			_, err := i.copies(ctx, transfer{closure: i.build.script, phase: hosts.PhaseDisks})
			return err
		},
		Tell: func(done, total int, step disko.Step) {
			i.apply(hosts.Event{Kind: hosts.EventAdvanced, Phase: hosts.PhaseDisks,
				Progress: &hosts.Progress{Done: int64(done), Total: int64(total), Unit: "steps", Now: stepWords(step)}})
		},
	}
}

// stepWords says what a step does, for the progress.
func stepWords(s disko.Step) string {
	if s.Expected == 0 {
		return s.Name
	}
	return fmt.Sprintf("%s (usually %s)", s.Name, s.Expected)
}

// burn burns the permit for the plan's disks, or takes it up again for the same, if nothing
// speaks against that.
func (f *reconciler) burn(h hosts.Host, p *disko.Plan) error {
	if err := f.guard(h, p); err != nil {
		return err
	}
	ev := hosts.Event{
		Kind:    hosts.EventBurned,
		Disks:   confirm.Disks(p, h.Wipe),
		Takes:   confirm.Of(p, h.Wipe).Disks,
		Message: "burned the permit for " + diskWords(p),
	}
	if !h.Permit.Burned.IsZero() {
		ev.Message = "goes on under the burned permit, for " + diskWords(p)
	}
	if !h.Disko.Erases() {
		ev.Message += "; nothing that is there is erased (--disko " + string(h.Disko) + ")"
	}
	if _, err := f.Hosts.Apply(h.Name, ev); err != nil {
		return err
	}

	f.begin(hosts.PhaseDisks)
	return nil
}

// Burn burns a host's permit for a plan that was made of what its machine has now. It is the
// last question before anything is changed, and refuses what was not confirmed.
func (in *Installer) Burn(h hosts.Host, p *disko.Plan) error {
	return (&reconciler{Installer: in, name: h.Name}).burn(h, p)
}

// disks burns the permit and makes the layout. What was made before an interruption, by a
// server that was killed or in an earlier boot, is taken up again.
func (i *install) makeDisks(ctx context.Context) error {
	if i.host.Layout == i.build.digest {
		err := i.takeUp(ctx)
		if err == nil {
			i.finished(hosts.PhaseDisks, "the disks were made before the interruption, and are mounted")
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errLost) || !i.host.Disko.Erases() {
			return err
		}
		i.note("what was made before the interruption is not taken up, the disks are made again: %v", err)
	}

	start := i.Now()
	steps, err := i.disks.make(ctx)
	if err != nil {
		return err
	}

	i.apply(hosts.Event{Kind: hosts.EventFinished, Phase: hosts.PhaseDisks, Layout: i.build.digest,
		Message: fmt.Sprintf("%s in %s", stepCount(steps), elapsed(i.Now(), start))})
	return nil
}

func stepCount(n int) string {
	if n == 1 {
		return "1 step"
	}
	return fmt.Sprintf("%d steps", n)
}

// takeUp mounts disks that were made.
func (i *install) takeUp(ctx context.Context) error {
	made := *i.disks
	made.Options.Mode = disko.Mount
	steps, err := made.Make(ctx)
	i.disks.plan, i.disks.verified = made.plan, made.verified
	if err == nil && steps > 0 { // they were not mounted: the machine was off
		err = checkStore(ctx, i.session, "/mnt")
	}
	return err
}

// closeAfter closes the disks after a failure or a cancel. Where the connection broke or the
// server stops, the install goes on later with what is open.
func (i *install) closeAfter(ctx context.Context, err error) {
	cause := context.Cause(ctx)
	switch {
	case err == nil, errors.Is(err, errLost), cause != nil && !errors.Is(cause, errUnwanted):
		return
	}
	if err := i.disks.Close(context.WithoutCancel(ctx)); err != nil {
		i.note("the disks were not closed: %v", err)
		return
	}
	i.Log.Info("the disks are closed", "host", i.name)
}

func diskWords(p *disko.Plan) string {
	var descriptions []string
	for _, d := range p.Disks {
		w := fmt.Sprintf("%s (%.1f GB", d.Device, float64(d.Size)/1e9)
		if id := strings.TrimSpace(d.Model + " " + d.Serial); id != "" {
			w += ", " + id
		}
		descriptions = append(descriptions, w+")")
	}
	return strings.Join(descriptions, ", ")
}
