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

// question asks an operator whether what a request would do is meant.
type question struct {
	c      *cobra.Command
	daemon *api.Client
	in     *bufio.Reader
	host   string
	yes    bool // it is, whatever the server plans when it gets the request
	// seen means that the machine told its disks just now; if it could not be asked, unseen says why.
	seen   bool
	unseen error
	// unasked tells of a plan that it needs no confirmation; nil: every plan does.
	unasked func(*enroll.Proposal) bool
	// before is done each time between the confirmation and the request; it may be nil.
	before func() error
}

func newQuestion(c *cobra.Command, daemon *api.Client, host string, yes bool) *question {
	return &question{c: c, daemon: daemon, in: bufio.NewReader(c.InOrStdin()), host: host, yes: yes}
}

// put shows the plan that the server makes of a request, has it confirmed, and sends the request
// with the digest of that plan. Where the plan is another by then, that one is shown and is to be
// confirmed. body is the request with an agreement; the answer is decoded into s.
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
		p, q.unasked = old.Plan, nil // somebody reads the screen by now
	}
}

// ask shows a plan and has it confirmed.
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

// showProposal shows what is on the disks, what will be, and what is lost.
func showProposal(out io.Writer, p *enroll.Proposal) {
	width, color := terminalSize(out)
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

// look has the host's machine asked for its disks, before the plan is made.
func (q *question) look() {
	q.unseen = q.daemon.Call(q.c.Context(), http.MethodPost, api.HostPath(q.host, "/look"), nil, nil)
	q.seen = q.unseen == nil
}

// confirm has the host's name typed.
func confirm(in io.Reader, out io.Writer, name string) error {
	fmt.Fprintf(out, "Type %s to go on: ", name)
	line, err := bufio.NewReader(in).ReadString('\n') // of a bufio.Reader it is that itself
	switch typed := strings.TrimSpace(line); {
	case typed == name:
		return nil
	case typed == "" && err != nil:
		return errors.New("not confirmed: nothing was changed; type the host's name, or use --yes in scripts")
	default:
		return fmt.Errorf("%q is not %s: nothing was changed", typed, name)
	}
}
