package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"provision/internal/api"
	"provision/internal/enroll"
)

// question asks an operator to confirm what a request would do.
type question struct {
	c      *cobra.Command
	daemon *api.Client
	in     *bufio.Reader
	host   string
	yes    bool // confirmed in advance, whatever the server plans when it gets the request
	// seen means that the machine has just reported its disks; if it could not be asked, unseen says why.
	seen   bool
	unseen error
	// unasked reports whether a plan needs no confirmation; nil: every plan needs one.
	unasked func(*enroll.Proposal) bool
	// before is called between each confirmation and the request; it may be nil.
	before func() error
}

// newQuestion returns a question about a host.
func newQuestion(c *cobra.Command, daemon *api.Client, host string, yes bool) *question {
	return &question{c: c, daemon: daemon, in: bufio.NewReader(c.InOrStdin()), host: host, yes: yes}
}

// put shows the plan that the server makes for a request, asks for confirmation, and sends the request with the digest
// of that plan. If the plan has changed by then, put shows the new one and asks again. body returns the request with an
// agreement; the answer is decoded into s.
func (q *question) put(path string, body func(enroll.Agreement) any, s *api.Status) error {
	p := new(enroll.Proposal)
	if err := q.daemon.Call(q.c.Context(), http.MethodPost, path, body(enroll.Agreement{PlanOnly: true}), p); err != nil {
		return err
	}

	if p.Unfit != "" && q.seen {
		return errors.New(p.Unfit)
	}
	for {
		a, err := q.ask(p)
		if err != nil {
			return err
		}

		if q.before != nil {
			if err := q.before(); err != nil {
				return err
			}
		}

		err = q.daemon.Call(q.c.Context(), http.MethodPost, path, body(a), s)
		var old *api.OutdatedPlan
		if !errors.As(err, &old) {
			return err
		}

		fmt.Fprintf(q.c.OutOrStdout(), "\nNot done: %v.\n\n", err)
		p, q.unasked = old.Plan, nil // from now on somebody reads the screen
	}
}

// ask shows a plan and asks for confirmation.
func (q *question) ask(p *enroll.Proposal) (enroll.Agreement, error) {
	if q.unasked != nil && q.unasked(p) {
		return enroll.Agreement{Digest: p.Digest}, nil
	}
	if q.unseen != nil {
		fmt.Fprintf(q.c.OutOrStdout(), "The disks could not be looked at now: %v.\n\n", q.unseen)
	}
	showProposal(q.c.OutOrStdout(), p)
	if q.yes {
		return enroll.Agreement{}, nil
	}
	return enroll.Agreement{Digest: p.Digest}, confirm(q.in, q.c.OutOrStdout(), q.host)
}

// showProposal shows what is on the disks, what will be on them, and what is lost.
func showProposal(out io.Writer, p *enroll.Proposal) {
	width, color := drawingOn(out)
	if p.Unfit != "" {
		fmt.Fprintf(out, "The layout does not suit the machine as it was seen last: %s\n\n", p.Unfit)
		fmt.Fprintf(out, "The disks are taken as they are named, whatever the machine has there.\n\n")
	}
	drawPlan(out, p.Plan, width, color)
	for _, d := range p.Disks {
		if d.Erased {
			fmt.Fprintln(out, paint(red, fmt.Sprintf("All that is on %s will be lost.", d), color))
		} else {
			fmt.Fprintf(out, "What is on %s is kept.\n", d)
		}
	}

	for _, d := range p.Wiped {
		fmt.Fprintf(out, "--wipe: %s is taken whatever speaks against it.\n", d)
	}
	for _, why := range p.Beyond {
		fmt.Fprintln(out, paint(red, "This was not confirmed before: "+why+".", color))
	}
	for i, why := range stops(p.Plan) {
		if i == 0 {
			fmt.Fprintln(out, paint(red, "The install would stop before it changes anything:", color))
		}
		fmt.Fprintln(out, "  "+why)
	}
}

// look asks the host's machine for its disks, before the plan is made.
func (q *question) look() {
	q.unseen = q.daemon.Call(q.c.Context(), http.MethodPost, api.HostPath(q.host, "/look"), nil, nil)
	q.seen = q.unseen == nil
}

// confirm asks for the host's name to be typed. Anything else is an error.
func confirm(in io.Reader, out io.Writer, name string) error {
	fmt.Fprintf(out, "Type %s to go on: ", name)
	line, err := bufio.NewReader(in).ReadString('\n') // if in is a bufio.Reader, NewReader returns it itself
	switch typed := strings.TrimSpace(line); {
	case typed == name:
		return nil
	case typed == "" && err != nil:
		return errors.New("not confirmed: nothing was changed; type the host's name, or use --yes in scripts")
	default:
		return fmt.Errorf("%q is not %s: nothing was changed", typed, name)
	}
}
