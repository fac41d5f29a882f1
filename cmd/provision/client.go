package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/enroll"
	"provision/internal/web"
)

// client speaks the server's API, docs/api.md.
type client struct{ socket string }

// do sends a request and returns the answer's body, which the caller closes.
func (a *client) do(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	r, _, err := a.sized(ctx, method, path, body)
	return r, err
}

// sized is do, with the body's length in bytes, -1 if it is not known.
func (a *client) sized(ctx context.Context, method, path string, body any) (io.ReadCloser, int64, error) {
	var send io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, 0, err
		}
		send = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://provision"+path, send)
	if err != nil {
		return nil, 0, err
	}
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.socket)
		}}}
	resp, err := h.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, 0, fmt.Errorf("no permission to open %s: run as root, or as a member of the group that `provision serve --socket-group` names", a.socket)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, 0, fmt.Errorf("no server answers on %s: start one with `provision serve`, or name its socket with --socket or PROVISION_SOCKET", a.socket)
	case err != nil:
		return nil, 0, err
	}
	if resp.StatusCode < 300 {
		return resp.Body, resp.ContentLength, nil
	}
	defer resp.Body.Close()
	var f web.Failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || f.Error == "" {
		return nil, 0, fmt.Errorf("the server answered %s", resp.Status)
	}
	if f.Plan != nil {
		return nil, 0, &outdatedPlan{f.Error, f.Plan}
	}
	return nil, 0, errors.New(f.Error)
}

// outdatedPlan means that what was confirmed is not what the server would do by now.
type outdatedPlan struct {
	text string
	plan *enroll.Proposal // is to be confirmed instead
}

func (e *outdatedPlan) Error() string { return e.text }

// call sends a request and decodes the answer into out, if that is not nil.
func (a *client) call(ctx context.Context, method, path string, body, out any) error {
	r, err := a.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(r).Decode(out)
}

// lines calls f for each JSON value of a stream, until f says false, the
// stream ends or ctx does.
func lines[T any](ctx context.Context, r io.ReadCloser, f func(T) (more bool)) error {
	defer r.Close()
	dec := json.NewDecoder(r)
	for {
		var v T
		err := dec.Decode(&v)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("the server went away: %w", err)
		case !f(v):
			return nil
		}
	}
}

func hostPath(name, rest string) string { return "/v1/hosts/" + url.PathEscape(name) + rest }

func watchPath(host string, after uint64, replay bool) string {
	q := url.Values{}
	if host != "" {
		q.Set("host", host)
	}
	if replay {
		q.Set("after", fmt.Sprint(after))
	}
	return "/v1/watch?" + q.Encode()
}

// completeHosts completes the names of enrolled hosts.
func (a *client) completeHosts(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var all []web.Status
	if len(args) > 0 || a.call(c.Context(), http.MethodGet, "/v1/hosts", nil, &all) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMACs completes the MACs of discovered machines.
func (a *client) completeMACs(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var all []hosts.Discovered
	if len(args) > 0 || a.call(c.Context(), http.MethodGet, "/v1/discovered", nil, &all) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var macs []string
	for _, d := range all {
		macs = append(macs, d.MAC+"\t"+d.Arch)
	}
	return macs, cobra.ShellCompDirectiveNoFileComp
}
