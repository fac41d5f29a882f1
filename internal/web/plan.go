package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"provision/disko"
	"provision/hosts"
	"provision/internal/confirm"
)

// PlanOptions are those of a plan that is shown.
func PlanOptions(way hosts.Disko, disks map[string]string) disko.Options {
	return confirm.Options(hosts.Options{Disko: way, Disks: disks}, "diskoScript") // which is not built for that
}

// plan says what an install would do: to the machine as it was last seen, or
// in general if it was never seen. It is the install that the host has a permit for, or the next.
func (s *Server) plan(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	if !h.Permit.Spent.IsZero() && s.Flake != "" {
		h.Flake = s.Flake
	}
	found, err := s.Evaluate(c.Request().Context(), h.Flake, h.Name, h.Options)
	if err != nil {
		return err
	}
	facts, err := s.facts(h, h, nil)
	if err == nil && facts == nil { // what format would make shows on the machine only
		_, err = disko.NewPlan(found.Layout, nil, PlanOptions(h.Options.Disko, h.Options.Disks))
	}
	if err != nil {
		return err
	}
	p, err := s.propose(h, found.Layout, nil)
	if err != nil {
		return err
	}
	if p.Unfit != "" {
		return errors.New(p.Unfit)
	}
	return c.JSON(http.StatusOK, p)
}

// propose plans what a permit for the host is for. The plan is the one that is shown, and the
// one that is confirmed.
func (s *Server) propose(h hosts.Host, layout *disko.Layout, seen json.RawMessage) (*Proposal, error) {
	before, err := s.Hosts.Get(h.Name)
	if err != nil && !errors.Is(err, hosts.ErrNotFound) {
		return nil, err
	}
	facts, err := s.facts(before, h, seen)
	if err != nil {
		return nil, err
	}
	o := PlanOptions(h.Options.Disko, h.Options.Disks)
	p := new(Proposal)
	if facts != nil {
		if p.Plan, err = disko.NewPlan(layout, facts, o); err != nil {
			p.Unfit = words(err)
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
	p.Problems = s.problems(h, layout)
	p.confirmed = confirm.Of(p.Plan, h.Options.Wipe)
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
	if o.Way != disko.Format {
		return disko.NewPlan(layout, nil, o)
	}
	o.Way = disko.Mount // what else is to be made shows on the machine only
	p, err := disko.NewPlan(layout, nil, o)
	if err == nil {
		p.Way = disko.Format
	}
	return p, err
}

// facts are what the host's machine is known to have: what the request brought, or what was seen
// last, if that was the same machine; nil if nothing is known.
func (s *Server) facts(before, h hosts.Host, seen json.RawMessage) (*disko.Facts, error) {
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
func readFacts(r EnrollRequest) (json.RawMessage, error) {
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

// outdated means that a plan was confirmed which is not the one that the server would permit.
type outdated struct {
	host string
	plan *Proposal
}

func (e *outdated) Error() string {
	return fmt.Sprintf("the plan for %s is another than the one that was confirmed, so nothing was changed: see the new one, and confirm that", e.host)
}

// agrees refuses a request whose confirmation was for another plan.
func (a Agreement) agrees(host string, p *Proposal) error {
	if a.Digest == "" || a.Digest == p.Digest {
		return nil
	}
	return &outdated{host, p}
}

// retry lets a failed install go on.
func (s *Server) retry(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	var r RetryRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	ev := hosts.Event{Kind: hosts.Retried, Wipe: r.Wipe, Message: "the install is tried again"}
	if r.Via != "" {
		if ev.Via, err = hosts.ParseVia(r.Via); err != nil {
			return err
		}
	}
	if err := s.Hosts.Check(h.Name, ev); err != nil {
		return err
	}
	found, err := s.Evaluate(c.Request().Context(), h.Flake, h.Name, h.Options)
	if err != nil {
		return err
	}
	again := h
	again.Options.Wipe = slices.Concat(h.Options.Wipe, r.Wipe)
	plan, err := s.propose(again, found.Layout, nil)
	if err != nil {
		return err
	}
	if h.Permit.Confirmed != nil {
		plan.Beyond = h.Permit.Confirmed.Beyond(plan.confirmed.Disks)
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	if err := r.agrees(h.Name, plan); err != nil {
		return err
	}
	ev.Confirmed = &plan.confirmed
	if h, err = s.Hosts.Apply(h.Name, ev); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, status(h))
}
