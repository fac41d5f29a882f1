package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A fetcher downloads the image's initrd and what follows it for this boot. It
// goes on where a connection broke, and never gives up but when the boot is over.
type fetcher struct {
	order  order
	client *http.Client
	con    *console
	wait   func(context.Context, time.Duration) // for the time, or until the network has changed

	unanswered func() // told when the server closed the connection at once; may be nil

	at        int64 // bytes that were handed on
	image     hash.Hash
	boot      hash.Hash
	overSince time.Time // when the server said first that the boot is over, and nothing else since
	shown     time.Time

	complaint  string
	complained time.Time
}

const (
	slowest   = 10 * time.Second // between two attempts
	overAfter = 5 * time.Minute  // from the first "it is over" until we believe it
)

var (
	errOver    = errors.New("this boot is over, or is not this machine's: restart the machine")
	errRestart = errors.New("the boot is over")
	errDiffers = errors.New("what was downloaded is not what this boot was promised, and was thrown away")
)

func newFetcher(o order, con *console, dial func(context.Context, string, string) (net.Conn, error),
	wait func(context.Context, time.Duration)) *fetcher {
	return &fetcher{order: o, con: con, wait: wait, image: sha256.New(), boot: sha256.New(), client: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true,
			ResponseHeaderTimeout: patience},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (f *fetcher) total() int64 { return f.order.image.size + f.order.boot.size }

// run writes all of it to w, and then says whether it is what it should be.
func (f *fetcher) run(ctx context.Context, w io.Writer) error {
	pause := time.Second
	for f.at < f.total() {
		before := f.at
		err := f.part(ctx, w)
		var gone *writeError
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &gone), errors.Is(err, errDiffers):
			return err
		case f.over(err):
			return errRestart
		}

		if f.at > before {
			pause = time.Second
		}
		f.complain(err)
		f.wait(ctx, pause)
		pause = min(2*pause, slowest)
	}

	return f.verdict()
}

// complain says what went wrong; the same again only now and then.
func (f *fetcher) complain(err error) {
	if text := err.Error(); text != f.complaint || time.Since(f.complained) > time.Minute {
		f.complaint, f.complained = text, time.Now()
		f.con.say("%s. Trying again.", text)
	}
}

// over notes whether err says that the boot is over; true if that has been said
// for long enough.
func (f *fetcher) over(err error) bool {
	switch {
	case !errors.Is(err, errOver):
		f.overSince = time.Time{}
	case f.overSince.IsZero():
		f.overSince = time.Now()
	default:
		return time.Since(f.overSince) > overAfter
	}
	return false
}

// verdict compares what came with the digests.
func (f *fetcher) verdict() error {
	for _, part := range []struct {
		what string
		sum  hash.Hash
		want pinned
	}{{"the image's initrd", f.image, f.order.image}, {"this boot's part", f.boot, f.order.boot}} {
		if got := part.sum.Sum(nil); string(got) != string(part.want.sha256[:]) {
			return fmt.Errorf("%w: the sha256 of %s is %x…, and must be %x…", errDiffers, part.what, got[:6], part.want.sha256[:6])
		}
	}
	return nil
}

// part makes one request for what is missing.
func (f *fetcher) part(ctx context.Context, w io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.order.url.String(), nil)
	if err != nil {
		return err
	}

	request.Header.Set("User-Agent", "provision-firststage")
	if f.at > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", f.at))
	}
	answer, err := f.client.Do(request)
	switch {
	case errors.Is(err, io.EOF):
		// So our server answers those who know no boot's token, and cards that it does not know.
		if f.unanswered != nil {
			f.unanswered()
		}
		return fmt.Errorf("the server %s closed the connection without an answer. If it is not just being restarted, %w",
			f.order.server, errOver)
	case err != nil:
		return reason(err)
	}
	defer answer.Body.Close()

	if err := f.check(answer); err != nil {
		return err
	}
	return f.copy(answer, w)
}

// check looks at the head of an answer.
func (f *fetcher) check(answer *http.Response) error {
	whole := answer.ContentLength
	switch answer.StatusCode {
	case http.StatusOK:
		if f.at > 0 { // a server that cannot go on: what we have comes again
			if _, err := io.CopyN(io.Discard, answer.Body, f.at); err != nil {
				return fmt.Errorf("the download broke off: %w", reason(err))
			}
		}
	case http.StatusPartialContent:
		from, size, ok := contentRange(answer.Header.Get("Content-Range"))
		if !ok || from != f.at {
			return fmt.Errorf("the server %s sent another part than was asked for", f.order.server)
		}
		whole = size
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone:
		return fmt.Errorf("the server %s answered %q: %w", f.order.server, answer.Status, errOver)
	case http.StatusRequestedRangeNotSatisfiable:
		_, whole, _ = contentRange(answer.Header.Get("Content-Range"))
	default:
		return fmt.Errorf("the server %s answered %q", f.order.server, answer.Status)
	}

	if whole != f.total() {
		return fmt.Errorf("%w: the server has %d bytes, and it must be %d", errDiffers, whole, f.total())
	}
	return nil
}

// contentRange reads "bytes 5-9/10", or "bytes */10".
func contentRange(s string) (from, size int64, ok bool) {
	rest, found := strings.CutPrefix(s, "bytes ")
	span, all, slash := strings.Cut(rest, "/")
	first, _, _ := strings.Cut(span, "-")
	size, err := strconv.ParseInt(all, 10, 64)
	if !found || !slash || err != nil {
		return 0, -1, false
	}
	from, err = strconv.ParseInt(first, 10, 64)
	return from, size, err == nil
}

// A writeError is the fault of the one who unpacks.
type writeError struct{ error }

// copy hands an answer's body on.
func (f *fetcher) copy(answer *http.Response, w io.Writer) error {
	buf := make([]byte, 256<<10)
	from, begin := f.at, time.Now()
	for f.at < f.total() {
		n, err := answer.Body.Read(buf)
		if n = int(min(int64(n), f.total()-f.at)); n > 0 {
			f.hash(buf[:n])
			if _, err := w.Write(buf[:n]); err != nil {
				return &writeError{err}
			}
			f.at += int64(n)
			f.overSince = time.Time{}
			f.show(float64(f.at-from) / 1e6 / max(time.Since(begin).Seconds(), 0.001))
		}
		if err != nil && f.at < f.total() {
			return fmt.Errorf("the download broke off at %s: %w", megabytes(f.at), reason(err))
		}
	}

	return nil
}

func (f *fetcher) hash(b []byte) {
	image := min(max(f.order.image.size-f.at, 0), int64(len(b)))
	f.image.Write(b[:image])
	f.boot.Write(b[image:])
}

// show shows how far it is; rate is in MB/s.
func (f *fetcher) show(rate float64) {
	now := time.Now()
	if now.Sub(f.shown) < 500*time.Millisecond && f.at < f.total() {
		return
	}
	f.shown = now
	f.con.progress("downloading the image: %s of %s, %.1f MB/s", megabytes(f.at), megabytes(f.total()), rate)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// reason says in plain words why the network failed.
func reason(err error) error {
	for _, known := range []struct {
		is   error
		text string
	}{
		{syscall.ECONNREFUSED, "connection refused: is provision running?"},
		{syscall.ECONNRESET, "the connection was reset"},
		{syscall.EHOSTUNREACH, "it cannot be reached: no computer has that address"},
		{syscall.ENETUNREACH, "it is in another network, and no gateway is known"},
		{io.ErrUnexpectedEOF, "the connection was closed"},
	} {
		if errors.Is(err, known.is) {
			return errors.New(known.text)
		}
	}
	if isTimeout(err) {
		return errors.New("no answer in time")
	}

	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}

	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) { // of url.Error
		err = inner
	}
	return err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
