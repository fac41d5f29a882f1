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

// guard stops an install before anything is changed, if something speaks against taking the
// plan's disks and the operator did not name them.
func (f *reconciler) guard(h hosts.Host, p *disko.Plan) error {
	for _, word := range h.Wipe {
		if why := p.Unnamed(word); why != "" {
			f.note("--wipe %s has no effect: %s", word, why)
		}
	}

	all, err := confirm.Objections(p, h, f.Hosts)
	if err != nil {
		return err
	}

	switch len(all) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("nothing was changed. %s", all[0])
	}

	message := fmt.Sprintf("nothing was changed. %d of the disks are not to be taken just so:", len(all))
	for _, o := range all {
		message += "\n" + o.String()
	}
	return errors.New(message)
}

// rehearse ends a dry run: all is done that comes before the first change. A blank machine
// stays in its installer, from which an install can go on.
func (i *install) rehearse(ctx context.Context) error {
	p, err := i.disks.newPlan(ctx, i.disks.Options, nil)
	if err != nil {
		return err
	}

	if err := i.guard(i.host, p); err != nil {
		return err
	}
	if err := i.host.CheckConfirmed(confirm.Of(p, i.host.Wipe).Disks); err != nil {
		return err
	}
	if err := i.checkBoard(i.host, i.disks.Layout, p); err != nil {
		return err
	}
	if err := i.checkTPM2(ctx, p); err != nil {
		return err
	}

	for _, path := range p.KeyFiles() {
		if _, err := i.disks.Key(path); err != nil {
			return err
		}
	}

	if _, err = i.Hosts.Apply(i.name, hosts.Event{Kind: hosts.EventRehearsed, Message: rehearsalWords(p)}); err != nil {
		return err
	}

	i.giveBack(ctx, i.session) // a host that was installed before starts its own system again
	return nil
}

// rehearsalWords sums up what would be done.
func rehearsalWords(p *disko.Plan) string {
	sentences := []string{fmt.Sprintf("a dry run; nothing was changed. An install would take %s in %s", diskWords(p), stepCount(len(p.Steps)))}
	if p.Unfinished() {
		sentences[0] += ", and more once it sees what is inside"
	}
	if keys := p.KeyFiles(); len(keys) > 0 {
		sentences = append(sentences, "the keys for "+strings.Join(keys, ", ")+" are there")
	}
	lost := false
	for _, d := range p.Disks {
		if d.Erased && d.Content != "blank" {
			lost = true
			sentences = append(sentences, fmt.Sprintf("lost would be all that is on %s: %s", d.Device, d.Content))
		}
	}

	if !lost {
		sentences = append(sentences, "nothing would be lost")
	}
	return strings.Join(sentences, "; ")
}
