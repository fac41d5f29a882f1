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

// PlanOptions returns the options for a plan that is only shown.
func PlanOptions(way hosts.DiskoMode, disks map[string]string) disko.Options {
	return confirm.Options(hosts.Choices{Disko: way, Disks: disks}, "diskoScript") // a placeholder: the script is not built for that
}

// Plan returns what an install would do: on the machine as it was last seen, or in general if it was never seen. It is
// the plan for the host's present permit or, if that is spent, for the next one.
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
	if err == nil && facts == nil { // without facts, mode format cannot be planned, and NewPlan says so
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

// propose makes the plan for a permit of the host, which is both shown and confirmed. seen are facts about the machine
// that the request brought, or nil.
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

// unseen makes a plan for a machine of which nothing is known.
func unseen(layout *disko.Layout, o disko.Options) (*disko.Plan, error) {
	if o.Mode != disko.Format {
		return disko.NewPlan(layout, nil, o)
	}
	o.Mode = disko.Mount // what else would be made depends on the machine
	p, err := disko.NewPlan(layout, nil, o)
	if err == nil {
		p.Mode = disko.Format
	}
	return p, err
}

// facts returns what is known of the host's machine: the facts that the request brought, or those from when it was last
// seen, if it is still the same machine; nil if nothing is known.
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

// maxFacts bounds the facts in a request, in bytes.
const maxFacts = 4 << 20

// readFacts checks the facts in a request, and returns them as they will be once the machine runs its installer; nil if
// there are none.
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

// Retry lets a failed install continue under the plan that it returns, unless only that plan is requested.
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
