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

// fetcher downloads the image's initrd, and what follows it for this boot. It resumes after a broken connection, and
// gives up only if the boot is over or the data are wrong.
type fetcher struct {
	order  order
	client *http.Client
	con    *console
	wait   func(context.Context, time.Duration) // waits for the given time, or until the network has changed

	unanswered func() // called when the server closes the connection without an answer; may be nil

	at        int64     // bytes that were passed on
	image     hash.Hash // digest of the image's initrd so far
	boot      hash.Hash // digest of the boot's part so far
	overSince time.Time // since when the server has been saying only that the boot is over
	shown     time.Time // time of the last progress

	complaint  string
	complained time.Time
}

const (
	slowest   = 10 * time.Second // longest pause between two attempts
	overAfter = 5 * time.Minute  // how long the server must say that the boot is over until that is believed
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

// total returns the number of bytes to download.
func (f *fetcher) total() int64 { return f.order.image.size + f.order.boot.size }

// run writes everything to w. It returns an error if the data do not have the expected digests.
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

// complain reports an error; the same one at most once in a minute.
func (f *fetcher) complain(err error) {
	if text := err.Error(); text != f.complaint || time.Since(f.complained) > time.Minute {
		f.complaint, f.complained = text, time.Now()
		f.con.say("%s. Trying again.", text)
	}
}

// over reports whether the server has been saying for long enough that the boot is over. err is the error of the last
// attempt.
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

// verdict compares the data with the digests.
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
		// provision answers like this to requests without a valid token, and to cards that it does not know.
		if f.unanswered != nil {
			f.unanswered()
		}
		return fmt.Errorf("the server %s closed the connection without an answer. If it is not just being "+
			"restarted, %w",
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

// check checks the header of a response.
func (f *fetcher) check(answer *http.Response) error {
	whole := answer.ContentLength
	switch answer.StatusCode {
	case http.StatusOK:
		if f.at > 0 { // the server does not support ranges, so what we have is sent again
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

// contentRange parses "bytes 5-9/10" or "bytes */10".
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

// writeError is an error of the side that unpacks.
type writeError struct{ error }

// copy passes on the body of a response.
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

// hash adds data to the digests.
func (f *fetcher) hash(b []byte) {
	image := min(max(f.order.image.size-f.at, 0), int64(len(b)))
	f.image.Write(b[:image])
	f.boot.Write(b[image:])
}

// show shows the progress at most twice a second. rate is in MB/s.
func (f *fetcher) show(rate float64) {
	now := time.Now()
	if now.Sub(f.shown) < 500*time.Millisecond && f.at < f.total() {
		return
	}
	f.shown = now
	f.con.progress("downloading the image: %s of %s, %.1f MB/s", megabytes(f.at), megabytes(f.total()), rate)
}

// megabytes formats a number of bytes for people.
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

	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) { // the cause inside a url.Error
		err = inner
	}
	return err
}

// isTimeout reports whether an error is a timeout.
func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
