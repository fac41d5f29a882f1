package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
)

// serveHTTP serves scripts, kernels and initrds.
func (s *Server) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	g := new(errgroup.Group)
	stop := context.AfterFunc(ctx, func() { g.Go(srv.Close) })
	defer stop()
	err := srv.Serve(l)
	if closed(err) {
		return g.Wait()
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

func (s *Server) routes() http.Handler {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	// A stranger gets no answer at all: the connection just ends.
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		var he *echo.HTTPError
		if !errors.As(err, &he) {
			s.Log.Error("serve HTTP", "from", c.Request().RemoteAddr, "path", c.Path(), "err", err)
			he = echo.NewHTTPError(http.StatusInternalServerError)
		}
		if c.Get("known") == nil {
			panic(http.ErrAbortHandler)
		}
		if !c.Response().Committed {
			c.NoContent(he.Code)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/"+bootPath+":token/:file", s.serveBoot)
		e.Add(method, "/hold/:mac", s.serveHold)
	}
	return e
}

func (s *Server) serveHold(c echo.Context) error {
	if !s.Hold {
		return echo.ErrNotFound
	}
	c.Set("known", true)
	return c.Blob(http.StatusOK, "text/plain", []byte(holdScript))
}

// serveBoot serves one file of a boot. The token must be the host's current
// one, and in the hands of the address that used it first.
func (s *Server) serveBoot(c echo.Context) error {
	token, file := c.Param("token"), c.Param("file")
	client, _, err := net.SplitHostPort(c.Request().RemoteAddr)
	if err != nil {
		return err
	}
	h, err := s.Hosts.ByToken(token)
	if err == nil && s.Mode == Full && h.Address != "" && h.Address != client {
		// The token went out by broadcast; the lease says whose it is.
		err = fmt.Errorf("%w: %s has the lease of %s", hosts.ErrRefused, h.Name, h.Address)
	}
	if err == nil {
		h, err = s.Hosts.UseBoot(token, client, file, false)
	}
	switch {
	case errors.Is(err, hosts.ErrNotFound):
		return echo.ErrNotFound
	case errors.Is(err, hosts.ErrRefused):
		c.Set("known", true)
		if loader(file) == script && (h.State == hosts.Rebooting || h.State == hosts.Installed) {
			return c.Blob(http.StatusOK, "text/plain", []byte(localScript))
		}
		s.tell(h, "%s asked for %s with the token of a boot that is over or not its own", client, printable(file))
		return echo.ErrNotFound
	case err != nil:
		return err
	}
	c.Set("known", true)
	img, err := s.Images.Get(h.Image)
	if err != nil {
		s.tell(h, "its image cannot be served: %s", err)
		return echo.ErrNotFound
	}
	switch file {
	case string(script):
		return c.Blob(http.StatusOK, "text/plain", []byte(s.bootScript(h, img.Cmdline)))
	case "kernel":
		_, err = s.send(c, h, img.Kernel, nil)
		return err
	case "initrd":
		return s.sendInitrd(c, h, img)
	}
	return echo.ErrNotFound
}

// sendInitrd sends the image's initrd with the boot's overlay appended. When
// its last byte is out, the token is used up.
func (s *Server) sendInitrd(c echo.Context, h hosts.Host, img images.Image) error {
	cpio, err := s.overlay(h)
	if err != nil {
		return err
	}
	tail := append(make([]byte, images.Padding(img.Initrd.Size)), cpio...)
	whole, err := s.send(c, h, img.Initrd, tail)
	if err != nil || !whole {
		return err
	}
	_, err = s.Hosts.UseBoot(h.Boot.Token, h.Boot.Client, "initrd whole", true)
	return err
}

// send writes a file of the catalog and then tail, or the range of it that is
// asked for (RFC 9110 section 14; one range, as boot clients use). whole: the
// last byte went out.
func (s *Server) send(c echo.Context, h hosts.Host, file images.File, tail []byte) (whole bool, err error) {
	f, err := s.Images.OpenFile(file)
	if err != nil {
		s.tell(h, "its image cannot be served: %s", err)
		return false, echo.ErrNotFound
	}
	defer f.Close()
	size := file.Size + int64(len(tail))
	first, length, partial, ok := byteRange(c.Request().Header.Get("Range"), size)
	head := c.Response().Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Accept-Ranges", "bytes")
	if !ok {
		head.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return false, echo.NewHTTPError(http.StatusRequestedRangeNotSatisfiable)
	}
	head.Set("Content-Length", strconv.FormatInt(length, 10))
	status := http.StatusOK
	if partial {
		head.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, first+length-1, size))
		status = http.StatusPartialContent
	}
	c.Response().WriteHeader(status)
	if c.Request().Method == http.MethodHead {
		return false, nil
	}
	if err := s.copyOut(c, h, f, file.Size, tail, first, length); err != nil {
		// The client went away; it asks again if it still wants to boot.
		s.Log.Debug("image not sent whole", "host", h.Name, "err", err)
		return false, nil
	}
	return first+length == size, nil
}

// copyOut sends length bytes from first. The file's part goes by sendfile,
// for which the copy needs the writer under echo's.
func (s *Server) copyOut(c echo.Context, h hosts.Host, f *os.File, fileSize int64, tail []byte, first, length int64) error {
	const chunk = 16 << 20
	w := c.Response().Writer
	if _, err := f.Seek(min(first, fileSize), io.SeekStart); err != nil {
		return err
	}
	total := fileSize + int64(len(tail))
	told := s.Now()
	for at := first; at < first+length && at < fileSize; {
		n, err := io.CopyN(w, f, min(chunk, fileSize-at, first+length-at))
		at += n
		if err != nil {
			return err
		}
		if tail != nil && s.Now().Sub(told) > time.Second {
			told = s.Now()
			p := hosts.Progress{Done: at, Total: total, Unit: "bytes"}
			if _, err := s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.Advanced, Phase: hosts.PhaseNetboot, Progress: &p}); err != nil {
				return err
			}
		}
	}
	from, to := max(first-fileSize, 0), first+length-fileSize
	if to <= 0 {
		return nil
	}
	_, err := w.Write(tail[from:to])
	return err
}

// byteRange reads a Range header. An absent, malformed or multiple range is
// the whole, as RFC 9110 allows; one outside the file is not ok.
func byteRange(header string, size int64) (first, length int64, partial, ok bool) {
	spec, found := strings.CutPrefix(header, "bytes=")
	a, b, dash := strings.Cut(spec, "-")
	if !found || !dash || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	if a == "" { // the last b bytes
		n, err := strconv.ParseInt(b, 10, 64)
		if err != nil || n < 0 {
			return 0, size, false, true
		}
		n = min(n, size)
		return size - n, n, true, n > 0
	}
	first, err := strconv.ParseInt(a, 10, 64)
	if err != nil || first < 0 {
		return 0, size, false, true
	}
	last := size - 1
	if b != "" {
		if last, err = strconv.ParseInt(b, 10, 64); err != nil || last < first {
			return 0, size, false, true
		}
	}
	last = min(last, size-1)
	return first, last - first + 1, true, first < size
}
