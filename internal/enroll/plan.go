package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"provision/disko"
	"provision/hosts"
	"provision/internal/confirm"
)

// PlanOptions are those of a plan that is shown.
func PlanOptions(way hosts.DiskoMode, disks map[string]string) disko.Options {
	return confirm.Options(hosts.Choices{Disko: way, Disks: disks}, "diskoScript") // which is not built for that
}

// Plan says what an install would do: to the machine as it was last seen, or in general if it was never seen. It is the
// install that the host has a permit for, or the next.
func (s *Service) Plan(ctx context.Context, name string) (*Proposal, error) {
	h, err := s.Hosts.Get(name)
	if err != nil {
		return nil, err
	}

	if !h.Permit.Spent.IsZero() && s.Flake != "" {
		h.Flake = s.Flake
	}
	found, err := s.Evaluate(ctx, h.Flake, h.Name, h.Choices)
	if err != nil {
		return nil, err
	}

	facts, err := s.facts(h, h, nil)
	if err == nil && facts == nil { // what format would make shows on the machine only
		_, err = disko.NewPlan(found.Layout, nil, PlanOptions(h.Disko, h.Disks))
	}
	if err != nil {
		return nil, err
	}

	p, err := s.propose(h, found.Layout, nil)
	if err == nil && p.Unfit != "" {
		err = errors.New(p.Unfit)
	}
	return p, err
}

// propose plans what a permit for the host is for. The plan is the one that is shown, and the
// one that is confirmed.
func (s *Service) propose(h hosts.Host, layout *disko.Layout, seen json.RawMessage) (*Proposal, error) {
	before, err := s.Hosts.Get(h.Name)
	if err != nil && !errors.Is(err, hosts.ErrNotFound) {
		return nil, err
	}

	facts, err := s.facts(before, h, seen)
	if err != nil {
		return nil, err
	}

	o := PlanOptions(h.Disko, h.Disks)
	p := new(Proposal)
	if facts != nil {
		if p.Plan, err = disko.NewPlan(layout, facts, o); err != nil {
			p.Unfit = shortText(err)
		}
	}

	if p.Plan == nil {
		if p.Plan, err = unseen(layout, o); err != nil {
			return nil, err
		}
	}

	h.Owned = before.Owned
	if p.Objections, err = confirm.Objections(p.Plan, h, s.Hosts); err != nil {
		return nil, err
	}

	p.Problems = problems(h, layout)
	p.confirmed = confirm.Of(p.Plan, h.Wipe)
	for i, d := range p.confirmed.Disks {
		if d.Wipe {
			p.Wiped = append(p.Wiped, p.Disks[i].String())
		}
	}

	p.Digest = p.confirmed.Digest
	return p, nil
}

// unseen plans for a machine of which nothing is known.
func unseen(layout *disko.Layout, o disko.Options) (*disko.Plan, error) {
	if o.Mode != disko.Format {
		return disko.NewPlan(layout, nil, o)
	}
	o.Mode = disko.Mount // what else is to be made shows on the machine only
	p, err := disko.NewPlan(layout, nil, o)
	if err == nil {
		p.Mode = disko.Format
	}
	return p, err
}

// facts are what the host's machine is known to have: what the request brought, or what was seen
// last, if that was the same machine; nil if nothing is known.
func (s *Service) facts(before, h hosts.Host, seen json.RawMessage) (*disko.Facts, error) {
	if seen != nil {
		return disko.ParseFacts(seen)
	}
	if !sameMACs(before.MACs, h.MACs) {
		return nil, nil
	}
	raw, err := s.Hosts.Facts(h.Name)
	if errors.Is(err, hosts.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return disko.ParseFacts(raw)
}

// maxFacts bounds what a request tells of a machine's disks, bytes.
const maxFacts = 4 << 20

// readFacts checks what a request tells of its machine, and makes of it what the machine will be
// once it runs its installer.
func readFacts(r Request) (json.RawMessage, error) {
	if r.Facts == nil {
		return nil, nil
	}
	if len(r.Facts) > maxFacts {
		return nil, fmt.Errorf("the machine's disks take %d bytes to tell; %d are the most", len(r.Facts), maxFacts)
	}
	facts, err := disko.ParseFacts(r.Facts)
	if err != nil {
		return nil, fmt.Errorf("read the machine's disks: %w", err)
	}
	if r.Take == nil || !r.Take.Installer {
		facts = facts.Restarted()
	}
	return json.Marshal(facts)
}

// Retry lets a failed install go on, by the plan that it returns, unless only that is asked for.
func (s *Service) Retry(ctx context.Context, name string, r RetryRequest) (hosts.Host, *Proposal, error) {
	h, err := s.Hosts.Get(name)
	if err != nil {
		return h, nil, err
	}

	ev := hosts.Event{
		Kind:    hosts.EventRetried,
		Wipe:    r.Wipe,
		Via:     r.Via,
		Message: "the install is tried again",
	}
	if err := s.Hosts.Check(h.Name, ev); err != nil {
		return h, nil, err
	}

	found, err := s.Evaluate(ctx, h.Flake, h.Name, h.Choices)
	if err != nil {
		return h, nil, err
	}

	again := h
	again.Wipe = slices.Concat(h.Wipe, r.Wipe)
	plan, err := s.propose(again, found.Layout, nil)
	if err != nil {
		return h, nil, err
	}

	if h.Permit.Confirmed != nil {
		plan.Beyond = h.Permit.Confirmed.Beyond(plan.confirmed.Disks)
	}
	if r.PlanOnly {
		return h, plan, nil
	}
	if err := r.agrees(h.Name, plan); err != nil {
		return h, nil, err
	}

	ev.Confirmed = &plan.confirmed
	h, err = s.Hosts.Apply(h.Name, ev)
	return h, plan, err
}
