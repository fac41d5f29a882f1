package pxe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
	"provision/internal/tftp"
)

// serveHTTP serves scripts, kernels and initrds.
func (s *Server) serveHTTP(ctx context.Context, l *servedLink) error {
	srv := &http.Server{
		Handler:                      s.withCache(s.routes(l)),
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  time.Minute,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnState:                    s.connections.changed,
		DisableGeneralOptionsHandler: true,
	}
	g := new(errgroup.Group)
	stop := context.AfterFunc(ctx, func() { g.Go(srv.Close) })
	defer stop()
	err := srv.Serve(l.sock.http)
	if closed(err) {
		return g.Wait()
	}
	return fmt.Errorf("serve HTTP: %w", err)
}

// withCache leaves to the binary cache what is its own.
func (s *Server) withCache(boots http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Cache != nil && strings.HasPrefix(r.URL.Path, "/cache/") {
			s.Cache.ServeHTTP(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead { // echo would answer OPTIONS
			panic(http.ErrAbortHandler)
		}
		boots.ServeHTTP(w, r)
	})
}

func (s *Server) routes(l *servedLink) http.Handler {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.Pre(readPath)

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
	with := func(f func(*servedLink, echo.Context) error) echo.HandlerFunc {
		return func(c echo.Context) error { return f(l, c) }
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/"+bootPath+":token/:file", with(s.serveBoot))
		e.Add(method, "/hold/:mac", with(s.serveHold))
		e.Add(method, "/ipxe", with(s.serveIPXE))
		e.Add(method, "/"+localPath, with(s.serveLocal))
		if s.Mode == Off {
			e.Add(method, "/:program", with(s.serveProgram))
		}
		e.Add(method, "/*", with(s.serveNothing))
	}

	return e
}

var slashes = regexp.MustCompile(`//+`)

// readPath reads the path of a request as a name is read over TFTP: repeated slashes are one, and bytes may be any.
// Firmware makes URLs of what it was told and of what it was set to.
func readPath(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		u.Path = slashes.ReplaceAllString(u.Path, "/")
		u.RawPath = ""
		return next(c)
	}
}

// serveNothing serves what there is not. A host's machine is told no more than strangers are.
func (s *Server) serveNothing(l *servedLink, c echo.Context) error {
	s.traceUnserved(l, c, l.neighbour(remote(c).Addr()), strings.TrimPrefix(c.Request().URL.Path, "/"))
	return echo.ErrNotFound
}

// traceUnserved keeps a request for a file that there is not, if a host's machine asked.
func (s *Server) traceUnserved(l *servedLink, c echo.Context, mac, name string) {
	if _, err := s.Hosts.ByMAC(mac); err != nil {
		return
	}
	s.traceHTTP(l, remote(c), mac, c.Request().Method, name)
	s.traceMissing(mac, name)
}

func (s *Server) serveHold(l *servedLink, c echo.Context) error {
	if s.Unknown != Hold {
		return echo.ErrNotFound
	}
	c.Set("known", true)
	return c.Blob(http.StatusOK, "text/plain", []byte(holdScript(l.self.String())))
}

// localPath is what UEFI HTTP boot is to fetch, and is told at once that it is not there, where the machine is to start
// from its disk. With a lease and no URL it would wait a minute for one (EDK2: 4, 8, 16 and 32 seconds).
const localPath = "local-disk"

// serveLocal serves nothing. A stranger is not even told so.
func (s *Server) serveLocal(l *servedLink, c echo.Context) error {
	from := remote(c)
	mac := l.neighbour(from.Addr())
	if _, err := s.Hosts.ByMAC(mac); err == nil {
		s.traceHTTP(l, from, mac, c.Request().Method, localPath)
		c.Set("known", true)
	}
	return echo.ErrNotFound
}

// remote is who asks.
func remote(c echo.Context) netip.AddrPort {
	a, _ := netip.ParseAddrPort(c.Request().RemoteAddr) // made by net/http
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// serveBoot serves one file of a boot. The token must be the host's current
// one, in the hands of the host's machine; kernel and initrd are for the address
// that used it first.
func (s *Server) serveBoot(l *servedLink, c echo.Context) error {
	token, name := c.Param("token"), s.meant(c.Param("file"))
	from := remote(c)
	if token == "hold" {
		f, err := s.open(l, bootPath+token+"/"+name, from)
		return s.serveContent(c, f, err)
	}
	h, err := s.Hosts.ByToken(token)
	if errors.Is(err, hosts.ErrNotFound) {
		return echo.ErrNotFound
	}
	if err != nil {
		return err
	}

	if err := s.vouchSoon(c.Request().Context(), l, h, from.Addr()); err != nil {
		s.note(h, "%s asked for %s with the token of its boot and got no answer: %s", from.Addr(), untold(name), err)
		return echo.ErrNotFound
	}

	c.Set("known", true)
	switch {
	case s.programs[name] != nil:
		s.traceHTTP(l, from, h.Boot.MAC, c.Request().Method, name)
		f, err := s.openByToken(h, token, name, from)
		return s.serveContent(c, f, err)
	case name != "script" && name != "kernel" && name != "initrd":
		s.traceUnserved(l, c, h.Boot.MAC, name)
		return echo.ErrNotFound // iPXE looks for autoexec.ipxe; that binds nobody
	}

	h, err = s.Hosts.UseBoot(token, hosts.Fetch{
		Client: from.Addr().String(),
		File:   name,
		Method: s.ladders.worked(h.Boot.MAC),
	})
	if overtaken(err) {
		if name == "script" && (h.State == hosts.StateRebooting || h.State == hosts.StateInstalled) {
			return c.Blob(http.StatusOK, "text/plain", []byte(localScript))
		}
		s.note(h, "%s asked for %s with the token of a boot that is over or not its own", from.Addr(), untold(name))
		return echo.ErrNotFound
	}
	if err != nil {
		return err
	}

	if name == "script" {
		s.ladders.done(h.Boot.MAC)
	}
	return s.serveImage(l, c, h, name)
}

// serveImage serves the script, the kernel or the initrd of a boot that is the
// client's.
func (s *Server) serveImage(l *servedLink, c echo.Context, h hosts.Host, name string) error {
	img, err := s.Images.Get(h.Image)
	if err != nil {
		s.note(h, "its image cannot be served: %s", err)
		return echo.ErrNotFound
	}

	s.traceHTTP(l, remote(c), h.Boot.MAC, c.Request().Method, name)
	s.reached(h.Boot.MAC, hosts.Stage(name))
	switch name {
	case "script":
		return c.Blob(http.StatusOK, "text/plain", []byte(s.bootScript(l.self.String(), h, img.BootCmdline(h.KernelParams))))
	case "kernel":
		_, err = s.send(c, h, img.Kernel, nil)
		return err
	case "initrd":
		what, tail, err := s.initrd(h, img)
		if err != nil {
			return err
		}
		begun := s.Now()
		whole, err := s.send(c, h, what, tail)
		if whole {
			s.started(h, h.Boot.TakenBy, hosts.Work{Bytes: what.Size + int64(len(tail)), Over: "http", Took: s.Now().Sub(begun)})
		}
		return err
	}

	return echo.ErrNotFound
}

// serveContent serves a boot program over HTTP.
func (s *Server) serveContent(c echo.Context, f tftp.File, err error) error {
	if err != nil {
		if errors.Is(err, tftp.ErrNotFound) {
			c.Set("known", true)
		}
		return echo.ErrNotFound
	}
	c.Set("known", true)
	c.Response().Header().Set("Content-Type", "application/efi")
	c.Response().Header().Set("Content-Length", strconv.FormatInt(f.Size, 10)) // UEFI asks for it by HEAD
	c.Response().WriteHeader(http.StatusOK)
	sent := int64(0)
	if c.Request().Method == http.MethodGet {
		sent, err = io.Copy(c.Response(), f.Content)
	}
	f.Close(sent == f.Size)
	if err != nil {
		s.Log.Debug("boot program not sent whole", "to", c.Request().RemoteAddr, "err", err)
	}
	return nil
}

// serveProgram serves a boot program in mode Off, where machines know no token.
func (s *Server) serveProgram(l *servedLink, c echo.Context) error {
	f, err := s.open(l, c.Param("program"), remote(c))
	if errors.Is(err, tftp.ErrNotFound) {
		s.traceUnserved(l, c, l.neighbour(remote(c).Addr()), c.Param("program"))
	}
	return s.serveContent(c, f, err)
}

// send writes a file of the catalog and then tail, or the range of it that is
// asked for (RFC 9110 section 14; one range, as boot clients use). whole: the
// last byte went out.
func (s *Server) send(c echo.Context, h hosts.Host, file images.File, tail []byte) (whole bool, err error) {
	f, err := s.Images.OpenFile(file)
	if err != nil {
		s.note(h, "its image cannot be served: %s", err)
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
func (s *Server) copyOut(c echo.Context, h hosts.Host, f *os.File, fileSize int64, tail []byte, first,
	length int64) error {
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
			if _, err := s.Hosts.Apply(h.Name, hosts.Event{
				Kind:     hosts.EventAdvanced,
				Phase:    hosts.PhaseNetboot,
				Progress: &p,
			}); err != nil {
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
