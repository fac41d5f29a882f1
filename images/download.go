package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// downloader fetches files over HTTP into partial downloads. It resumes a download where it, or an earlier process,
// stopped.
type downloader struct {
	client *http.Client
	stall  time.Duration // a connection on which no data arrives for this long is given up
	tries  int           // how many attempts in a row may bring nothing new
	// pause waits before the next attempt, the nth in a row.
	pause func(ctx context.Context, n int) error
}

func newDownloader() downloader {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
	t.ResponseHeaderTimeout = 30 * time.Second
	return downloader{client: &http.Client{Transport: t}, stall: 30 * time.Second, tries: 5, pause: backOff}
}

// backOff waits 1, 2, 4, 8 seconds for n = 1, 2, 3, 4.
func backOff(ctx context.Context, n int) error {
	t := time.NewTimer(time.Second << (n - 1))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// errRemote is a final refusal of the server: another attempt would get the same answer.
type errRemote struct {
	status int // HTTP status, or 0
	text   string
}

func (e errRemote) Error() string { return e.text }

// errBroken wraps the error of a download that can be resumed later.
type errBroken struct{ error }

func (e errBroken) Unwrap() error { return e.error }

// Is makes errors.Is report fs.ErrNotExist if the server does not have the file.
func (e errRemote) Is(target error) bool {
	return target == fs.ErrNotExist && (e.status == http.StatusNotFound || e.status == http.StatusGone)
}

// remote is a file to be downloaded.
type remote struct {
	url   *url.URL
	limit int64 // largest size that is accepted, in bytes
	// proven means that the file's digest is known, so it may come over an unprotected connection.
	proven bool
}

// get downloads the file into p. It tries again as long as attempts bring something. count, which may be nil, is called
// with numbers of bytes; total is 0 if the server does not tell it.
func (d downloader) get(ctx context.Context, r remote, p *partialDownload, count func(done, total int64)) error {
	for n := 1; ; n++ {
		before := p.size
		err := d.try(ctx, r, p, count)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !passing(err) {
			return fmt.Errorf("download %s: %w", plainURL(r.url), reason(ctx, err))
		}

		if p.size > before {
			n = 0
		}
		if n >= d.tries {
			return errBroken{fmt.Errorf("download %s: %w (tried %d times)", plainURL(r.url), reason(ctx, err), n)}
		}
		if err := d.pause(ctx, max(n, 1)); err != nil {
			return err
		}
	}
}

// passing reports whether an error may be temporary.
func passing(err error) bool {
	var (
		no          errRemote
		disk        *fs.PathError // such as a full disk
		certificate *tls.CertificateVerificationError
		name        *net.DNSError
	)
	return !errors.As(err, &no) && !errors.As(err, &disk) && !errors.As(err, &certificate) &&
		!(errors.As(err, &name) && name.IsNotFound)
}

// reason returns the cause of an error of net/http, without the URL, which may hold a signature after redirects. If ctx
// ended, it returns the cause of that.
func reason(ctx context.Context, err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// plainURL returns a URL without the parts that may be secret.
func plainURL(u *url.URL) string {
	s := *u
	s.User = nil
	s.RawQuery = ""
	s.Fragment = ""
	return s.String()
}

// secure reports whether nobody between here and the server can change what comes from u.
func secure(u *url.URL) bool {
	host := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Hostname() == "localhost" || host != nil && host.IsLoopback()
}

// try makes one attempt to download the rest of the file.
func (d downloader) try(parent context.Context, r remote, p *partialDownload, count func(done, total int64)) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)

	watchdog := time.AfterFunc(d.stall, func() { cancel(fmt.Errorf("the server has sent nothing for %v", d.stall)) })
	defer watchdog.Stop()

	resp, err := d.ask(ctx, r, p)
	if err != nil {
		return because(ctx, err)
	}
	defer resp.Body.Close()

	if err := p.accept(resp); err != nil || p.complete {
		return err
	}

	if p.total > r.limit {
		return errRemote{text: fmt.Sprintf("it has %d bytes; at most %d are taken", p.total, r.limit)}
	}
	body := &meter{ctx, resp.Body, func(n int) {
		watchdog.Reset(d.stall)
		if count != nil {
			count(p.size+int64(n), max(p.total, 0))
		}
	}}
	err = p.write(io.LimitReader(body, r.limit+1-p.size))
	switch {
	case err != nil:
		return because(ctx, err)
	case p.size > r.limit:
		return errRemote{text: fmt.Sprintf("it has more than %d bytes", r.limit)}
	case p.total >= 0 && p.size < p.total:
		return io.ErrUnexpectedEOF
	}

	return nil
}

// because returns err or, if ctx ended, the cause of that.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ask sends a request for the part of the file that is missing (RFC 9110, sections 13.1.5 and 14.2).
func (d downloader) ask(ctx context.Context, r remote, p *partialDownload) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url.String(), nil)
	if err != nil {
		return nil, err
	}

	req.Header.Set("User-Agent", "provision")
	req.Header.Set("Accept-Encoding", "identity") // ranges must count bytes of the file itself
	if p.size > 0 && p.saved.Validator == "" {
		if err := p.restart(""); err != nil {
			return nil, err
		}
	}

	if p.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
		req.Header.Set("If-Range", p.saved.Validator)
	}
	client := *d.client
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) >= 10:
			return errRemote{text: "it redirects on and on"}
		case req.URL.Scheme != "http" && req.URL.Scheme != "https":
			return errRemote{text: fmt.Sprintf("it redirects to a URL of %q", req.URL.Scheme)}
		case !r.proven && !secure(req.URL):
			return errRemote{text: fmt.Sprintf("it redirects to %s, which anyone on the way can change: give its "+
				"digest with --sha256 %s=HEX",
				plainURL(req.URL), path.Base(r.url.Path))}
		}
		return nil
	}
	return client.Do(req)
}

// accept prepares p for the body of the response, or returns an error if the response cannot be used.
func (p *partialDownload) accept(resp *http.Response) error {
	p.complete = false
	p.total = -1
	switch code := resp.StatusCode; code {
	case http.StatusOK:
		p.total = resp.ContentLength
		return p.restart(validator(resp.Header))
	case http.StatusPartialContent:
		first, total := parseContentRange(resp.Header)
		if first != p.size || p.size == 0 {
			return errors.Join(p.restart(""), errors.New("the server sent another part than was asked for"))
		}
		p.total = total
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		_, total := parseContentRange(resp.Header)
		p.complete = total == p.size && p.size > 0
		if p.complete {
			return nil
		}
		return errors.Join(p.restart(""), errors.New("the server no longer has the file that was begun"))
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("the server says %s", resp.Status)
	default:
		return errRemote{code, fmt.Sprintf("the server says %s", resp.Status)}
	}
}

// validator returns what identifies this version of the file in a later range request: a strong entity tag or, if there
// is none, the time of the last change.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return h.Get("Last-Modified")
}

// parseContentRange reads "bytes 100-199/200" and "bytes */200". Numbers that are missing are -1.
func parseContentRange(h http.Header) (first, total int64) {
	s, _ := strings.CutPrefix(h.Get("Content-Range"), "bytes ")
	where, size, _ := strings.Cut(s, "/")
	start, _, _ := strings.Cut(where, "-")
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 62)
		if err != nil {
			return -1
		}
		return int64(n)
	}
	return number(start), number(size)
}
