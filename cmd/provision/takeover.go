package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/installer"
	"provision/internal/api"
	"provision/internal/takeover"
)

// takeOver logs in, looks around, lets the server in, and enrolls the host. It changes nothing on a machine that cannot
// be taken over.
func takeOver(c *cobra.Command, daemon *api.Client, v *takeover.Visit, e *enrollment, yes bool) error {
	ctx := c.Context()
	var server api.Serving
	if err := daemon.Call(ctx, http.MethodGet, api.ServerPath, nil, &server); err != nil {
		return err
	}

	v.ServerKey = server.SSHKey
	v.LookAround = installer.LookAround
	v.Reach = func(ctx context.Context, take hosts.Takeover) (reached hosts.Reached, err error) {
		err = daemon.Call(ctx, http.MethodPost, api.ReachPath, take, &reached)
		return reached, err
	}
	if err := v.Enter(ctx); err != nil {
		return err
	}
	defer v.Close()

	for _, note := range v.Notes() {
		fmt.Fprintf(c.ErrOrStderr(), "Note: %s.\n", note)
	}
	if err := v.Check(ctx); err != nil {
		return fmt.Errorf("take over %s: %w", v.Name(), err)
	}

	fmt.Fprintln(c.OutOrStdout(), v.Words())

	s, err := enrollVisited(c, daemon, v, e, yes)
	if err != nil {
		return err
	}

	how := "The server may log in there by root's authorized keys."
	if v.Admitted() {
		how = "The server's key gets in there already; nothing was changed."
	}
	fmt.Fprintf(c.OutOrStdout(), "%s\n%s. The server goes on now; follow it with: provision watch %s\n",
		how, permission(s), s.Name)
	return nil
}

// enrollVisited shows what the install will do and, once that is confirmed, lets the server in and enrolls the host. If
// that fails, the server's key is removed again.
func enrollVisited(c *cobra.Command, daemon *api.Client, v *takeover.Visit,
	e *enrollment, yes bool) (s api.Status, err error) {
	ctx := c.Context()
	q := newQuestion(c, daemon, e.request.Name, yes)
	e.request.Facts, q.unseen = visitedDisks(ctx, v)
	if ctx.Err() != nil {
		return s, ctx.Err()
	}

	q.seen = q.unseen == nil
	e.request.MACs = v.MACs()
	e.request.Arch = v.Arch()
	e.request.Take = &v.Take
	added := false
	q.before = func() error {
		if !v.Admitted() && !added {
			if added, err = v.LetIn(ctx); err != nil {
				return err
			}
		}
		if err := v.CheckAdmitted(ctx); err != nil {
			return fmt.Errorf("take over %s: %w", v.Name(), err)
		}
		return nil
	}
	if err = q.put(api.HostsPath, e.agreed, &s); err != nil {
		if added {
			// This must be undone even if the context has ended.
			err = errors.Join(err, v.LetOut(context.WithoutCancel(ctx)))
		}
		return s, err
	}

	sayEnrolled(c, daemon, s)
	return s, nil
}

// visitedDisks asks a machine for its disks, and returns disko.Facts as JSON. It changes nothing there.
func visitedDisks(ctx context.Context, v *takeover.Visit) (json.RawMessage, error) {
	if !v.HasLogin() { // only the server can log in
		return nil, errors.New("you have no login there yourself")
	}
	const path = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin\n"
	out, err := v.AsRoot(ctx, path+disko.Probe(nil)[2]) // Probe returns sh -c SCRIPT …
	if err != nil {
		return nil, fmt.Errorf("list the machine's disks: %w", err)
	}
	facts, err := disko.ReadProbe([]byte(out))
	if err == nil {
		_, err = disko.ParseFacts(facts)
	}
	if err != nil {
		return nil, err
	}
	return facts, nil
}
