package netboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"
)

// httpBoot is UEFI HTTP boot: an offer must have option 60 HTTPClient and a URL; HEAD tells the size, GET fetches.
func (r *run) httpBoot(ctx context.Context) error {
	c, err := r.choose(ctx, seconds(4, 8, 16, 32), pickHTTP)
	if err != nil {
		return err
	}
	boot, err := r.lease(ctx, c.lease, seconds(4, 8, 16, 32))
	if err != nil {
		return err
	}
	if c.boot.proxy() {
		boot = c.boot
	}
	r.res.File = boot.file()
	if !boot.http() || r.res.File == "" {
		return stopf("the acknowledgement is not of an HTTP boot server: %s", boot)
	}
	if boot.get(optVendor) != nil {
		r.remark("option 43 in an HTTP boot reply")
	}
	if err := r.reached(UntilLease); err != nil {
		return err
	}
	if f, _, err := r.http(ctx, "program size", http.MethodHead, r.res.File, 0); err != nil {
		return err
	} else if f.Size < 0 {
		return stopf("the answer to HEAD %s has no Content-Length", f.URL)
	}
	if f, _, err := r.http(ctx, "program", http.MethodGet, r.res.File, 0); err != nil {
		return err
	} else if f.Size < 0 {
		return stopf("the answer to GET %s has no Content-Length", f.URL)
	}
	if err := r.reached(UntilProgram); err != nil {
		return err
	}
	return r.chain(ctx)
}

// pickHTTP takes a lease with a URL, else a lease and a proxy's URL.
func pickHTTP(offers []reply) (choice, bool) {
	var lease reply
	for _, o := range offers {
		if o.proxy() {
			continue
		}
		if o.http() && o.file() != "" {
			return choice{"DHCP with a URL", o, o, false}, true
		}
		if lease.raw == nil {
			lease = o
		}
	}
	for _, o := range offers {
		if o.proxy() && o.http() && o.file() != "" && !lease.at.IsZero() {
			return choice{"plain DHCP and a proxy's URL", lease, o, false}, true
		}
	}
	return choice{}, false
}

// http makes one request on a connection of its own. A limit ends it early.
func (r *run) http(ctx context.Context, stage, method, link string, limit int64) (Fetch, []byte, error) {
	f := Fetch{Stage: r.stage + stage, URL: link, Size: -1, Tries: 1}
	begin := time.Now()
	body, err := r.exchangeHTTP(ctx, &f, method, limit)
	f.Took = time.Since(begin)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = stopf("%s %s: no answer, or it dried up after %d bytes", method, link, f.Bytes)
	}
	r.res.Fetched = append(r.res.Fetched, f)
	r.timed(stage, begin, time.Now(), 1)
	if err == nil && f.Failed != "" {
		err = stopf("%s %s: %s", method, link, f.Failed)
	}
	return f, body, err
}

func (r *run) exchangeHTTP(ctx context.Context, f *Fetch, method string, limit int64) ([]byte, error) {
	u, err := url.Parse(f.URL)
	if err != nil || u.Scheme != "http" {
		return nil, stopf("%q is no http URL", f.URL)
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = "80"
	}
	to, err := netip.ParseAddrPort(host + ":" + port)
	if err != nil {
		return nil, stopf("%s names its server %q; only addresses need no DNS", f.URL, host)
	}
	r.res.Server = to.Addr()
	conn, err := r.w.tcp(r.own, to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	patience := r.scaled(r.httpPatience())
	_ = conn.SetDeadline(time.Now().Add(patience))
	r.note(true, to, nil, "HTTP %s %s", method, u.RequestURI())
	if _, err := io.WriteString(conn, r.httpRequest(method, u)); err != nil {
		return nil, r.refused(ctx, f, err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, r.refused(ctx, f, err)
	}
	defer resp.Body.Close()
	r.note(false, to, nil, "HTTP %s, %d bytes", resp.Status, resp.ContentLength)
	if f.Size = resp.ContentLength; resp.StatusCode != http.StatusOK {
		f.Failed = resp.Status
		return nil, nil
	}
	s := newSink(f, nil)
	from := io.Reader(resp.Body)
	if limit > 0 {
		from = io.LimitReader(from, limit)
	}
	for err == nil {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = io.CopyN(s, from, 1<<20)
	}
	if err != io.EOF {
		return nil, r.refused(ctx, f, err)
	}
	if limit == 0 && method == http.MethodGet && f.Size >= 0 && f.Bytes != f.Size {
		return nil, stopf("GET %s ended after %d of %d bytes", f.URL, f.Bytes, f.Size)
	}
	return s.close(), nil
}

// refused makes a network error the machine's: what it saw, not what the test bed did wrong.
func (r *run) refused(ctx context.Context, f *Fetch, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return stopf("%s: %v", f.URL, err)
}

func (r *run) httpPatience() time.Duration {
	if r.family() == edk2 {
		return 5 * time.Second // HTTP_RESPONSE_TIMEOUT
	}
	return 30 * time.Second
}

// httpRequest is the header as captured (EDK2) or as iPXE's source makes it.
func (r *run) httpRequest(method string, u *url.URL) string {
	if r.family() == edk2 {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n", method, u.RequestURI(), u.Host)
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nUser-Agent: iPXE/1.21.1+\r\nHost: %s\r\nConnection: keep-alive\r\n\r\n", method, u.RequestURI(), u.Host)
}
