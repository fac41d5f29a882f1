package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"

	"provision/internal/enroll"
)

// Client calls the API that docs/api.md describes.
type Client struct {
	Socket string // path of the Unix socket
}

// Do sends a request and returns the body of the answer, which the caller closes. body is encoded as JSON, unless it is
// nil. Errors have the server's text, or say why the server cannot be reached.
func (c *Client) Do(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	r, _, err := c.Sized(ctx, method, path, body)
	return r, err
}

// Sized is Do, and also returns the length of the body in bytes; -1 if it is not known.
func (c *Client) Sized(ctx context.Context, method, path string, body any) (io.ReadCloser, int64, error) {
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

	h := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}}
	resp, err := h.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, 0, fmt.Errorf("no permission to open %s: run as root, or as a member of the group that "+
			"`provision serve --socket-group` names", c.Socket)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, 0, fmt.Errorf("no server answers on %s: start one with `provision serve`, or name its socket with "+
			"--socket or PROVISION_SOCKET", c.Socket)
	case err != nil:
		return nil, 0, err
	}

	if resp.StatusCode < 300 {
		return resp.Body, resp.ContentLength, nil
	}
	defer resp.Body.Close()

	var f Failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil || f.Error == "" {
		return nil, 0, fmt.Errorf("the server answered %s", resp.Status)
	}

	if f.Plan != nil {
		return nil, 0, &OutdatedPlan{f.Error, f.Plan}
	}
	return nil, 0, errors.New(f.Error)
}

// OutdatedPlan is the error if the confirmed plan is not what the server would do now.
type OutdatedPlan struct {
	Text string
	Plan *enroll.Proposal // the present plan, to be confirmed instead
}

// Error returns the server's text.
func (e *OutdatedPlan) Error() string { return e.Text }

// Call sends a request and decodes the answer into out, unless out is nil.
func (c *Client) Call(ctx context.Context, method, path string, body, out any) error {
	r, err := c.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(r).Decode(out)
}

// Lines calls f for each JSON value of a stream until f returns false, or the stream or ctx ends. It closes r.
func Lines[T any](ctx context.Context, r io.ReadCloser, f func(T) (more bool)) error {
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
