// Package api is the operator's API: JSON over HTTP on a Unix socket, as
// docs/api.md describes it.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/enroll"
	"provision/internal/text"
)

// Server answers the operator. Its exported fields are its options.
type Server struct {
	Socket  string // path of the Unix socket, mode 0600
	Group   string // if set, members of this group may use it too
	Serving Serving
	// Interfaces are those that are served now, with our addresses on them.
	Interfaces func() map[string]netip.Addr
	// Programs is the folder with boot programs beside those built in; empty: none.
	Programs string

	Enroll *enroll.Service
	Hosts  *hosts.Inventory
	Images *images.Catalog
	Traces *hosts.Traces
	// Look asks what runs on a host's machine for its disks, and has the inventory keep the answer.
	Look func(ctx context.Context, host string) error
	// Reach tries whether the server gets into a machine that is to be taken over.
	Reach func(context.Context, hosts.Takeover) (hosts.Reached, error)
	// Temp is the folder for files that last as long as a request; empty: the system's.
	Temp string
	// Store writes a copy of all records.
	Store io.WriterTo
	Log   *slog.Logger

	listener net.Listener
	meter    meter
}

// Listen opens the socket. Run must follow.
func (s *Server) Listen(ctx context.Context) (err error) {
	s.listener, err = s.listen(ctx)
	return err
}

// Close closes the socket if Run is not to follow, and removes it.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withPeer}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		// Streams end with ctx; give them a moment to say so.
		brief, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(brief) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(s.listener)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

// listen opens the socket. What a killed server left behind is replaced; a
// live one is not.
func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}
	if c, err := new(net.Dialer).DialContext(ctx, "unix", s.Socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("open the API's socket: another server answers on %s; stop it or choose another --socket", s.Socket)
	}
	if info, err := os.Lstat(s.Socket); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("open the API's socket: %s is there and is not a socket; choose another --socket", s.Socket)
	}
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}

	// The mask makes the socket private from its first moment on. It is the
	// whole process's: nothing else may run yet.
	old := syscall.Umask(0o177)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", s.Socket)
	syscall.Umask(old)
	if err == nil && s.Group != "" {
		err = share(s.Socket, s.Group)
	}
	if err != nil {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}
	return l, nil
}

func share(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(path, -1, gid), os.Chmod(path, 0o660))
}

func (s *Server) routes() http.Handler {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = s.fail
	e.GET(metricsPath, s.metrics)
	e.GET(ServerPath, func(c echo.Context) error { return c.JSON(http.StatusOK, s.serving()) })
	e.GET(HostsPath, s.list)
	e.POST(HostsPath, s.enroll)
	e.GET(HostsPath+"/:name", s.get)
	e.DELETE(HostsPath+"/:name", s.forget)
	e.PATCH(HostsPath+"/:name", s.set)
	e.GET(HostsPath+"/:name/loss", s.loss)
	e.POST(HostsPath+"/:name/restore", s.restore)
	e.GET(ForgottenPath, s.forgotten)
	e.POST(HostsPath+"/:name/cancel", s.cancel)
	e.POST(HostsPath+"/:name/reinstall", s.reinstall)
	e.POST(HostsPath+"/:name/retry", s.retry)
	e.POST(HostsPath+"/:name/look", s.look)
	e.GET(HostsPath+"/:name/events", s.events)
	e.GET(HostsPath+"/:name/journal", s.journal)
	e.GET(HostsPath+"/:name/plan", s.plan)
	e.GET(HostsPath+"/:name/host-key", s.hostKey)
	e.POST(HostsPath+"/:name/host-key", s.makeHostKey)
	e.POST(HostsPath+"/:name/escrow", s.escrow)
	e.POST(ReachPath, s.reach)
	e.GET(watchPath, s.watch)
	e.GET(DiscoveredPath, s.discovered)
	e.GET(TracesPath, func(c echo.Context) error { return c.JSON(http.StatusOK, s.Traces.List()) })
	e.GET(TracesPath+"/:machine", s.trace)
	e.GET(SlowLoadsPath, s.slowLoads)
	e.GET(ImagesPath, s.listImages)
	e.POST(ImagesPath, s.addImage)
	e.POST(ImagesPath+"/gc", s.collectImages)
	e.POST(ImagesPath+"/:name/verify", s.verifyImage)
	e.POST(ImagesPath+"/:name/update", s.updateImage)
	e.PATCH(ImagesPath+"/:name", s.setImage)
	e.DELETE(ImagesPath+"/:name", s.removeImage)
	e.POST(MediaPath, s.media)
	e.GET(StatePath, s.backup)
	e.POST(SetAsidePath, s.setAside)
	e.GET(FirmwarePath, s.listFirmware)
	e.POST(FirmwarePath, s.addFirmware)
	e.GET(FirmwarePath+"/:name/licences", s.firmwareLicences)
	e.POST(FirmwarePath+"/:name/verify", s.verifyFirmware)
	e.DELETE(FirmwarePath+"/:name", s.removeFirmware)
	return e
}

// answerText is an error as it is answered. Much of it may be what a flake or a machine says.
func answerText(err error) string { return text.Short(err.Error(), hosts.MaxMessage) }

func (s *Server) list(c echo.Context) error {
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}
	out := make([]Status, len(all))
	for i, h := range all {
		out[i] = statusOf(h)
	}
	return c.JSON(http.StatusOK, out)
}

func (s *Server) get(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, statusOf(h))
}

// host is the one that the path names; if there is none, the error lists
// those that are.
func (s *Server) host(c echo.Context) (hosts.Host, error) { return s.named(c.Param("name")) }

func (s *Server) named(name string) (hosts.Host, error) {
	h, err := s.Hosts.Get(name)
	if !errors.Is(err, hosts.ErrNotFound) {
		return h, err
	}
	all, listErr := s.Hosts.List()
	if listErr != nil {
		return h, listErr
	}
	names := make([]string, len(all))
	for i, o := range all {
		names[i] = o.Name
	}
	hint := s.restorable(name)
	if len(names) == 0 {
		return h, fmt.Errorf("%w; no host is enrolled yet%s", err, hint)
	}
	return h, fmt.Errorf("%w; enrolled are: %s%s", err, strings.Join(names, ", "), hint)
}

func (s *Server) cancel(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	message := "the permit was withdrawn"
	if h.HasInstalled() {
		message += "; its disks were not touched"
	}
	h, err = s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.EventCancelled, Message: message})
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, statusOf(h))
}

func (s *Server) events(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	after, err := number(c.QueryParam("after"))
	if err != nil {
		return err
	}
	events, err := s.Hosts.Events(h.Name, after)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, array(events))
}

// journal is what the installer said when the last install failed.
func (s *Server) journal(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	text, err := s.Hosts.Journal(h.Name)
	if errors.Is(err, hosts.ErrNotFound) {
		return fmt.Errorf("%w: it is kept when an install fails while its installer answers", err)
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, Journal{text})
}

// array makes JSON print an empty list as [], not null.
func array[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func number(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("after=%q: not an event's number", s)
	}
	return n, nil
}

func (s *Server) discovered(c echo.Context) error {
	return c.JSON(http.StatusOK, s.Hosts.Discovered())
}

// trace is the last netboot of a machine, by its MAC or by a host's name; of
// several MACs, of the one that asked last.
func (s *Server) trace(c echo.Context) error {
	macs := []string{c.Param("machine")}
	if mac, err := hosts.ParseMAC(macs[0]); err == nil {
		macs[0] = mac
	} else {
		h, err := s.Hosts.Get(macs[0])
		if err != nil {
			return err
		}
		macs = h.MACs
	}

	for _, tr := range s.Traces.List() {
		if slices.Contains(macs, tr.MAC) {
			if tr, err := s.Traces.Get(tr.MAC); err == nil {
				return c.JSON(http.StatusOK, tr)
			}
		}
	}

	return fmt.Errorf("%w: nothing was heard of %s since the server started", hosts.ErrNotFound, strings.Join(macs, ", "))
}

// watch streams News: first how each host stands, then what changes.
// ?host=NAME limits it, ?after=N replays that host's events past N.
func (s *Server) watch(c echo.Context) error {
	ctx := c.Request().Context()
	only := c.QueryParam("host")
	changed := s.Hosts.Watch(ctx) // before the first look, so that nothing is missed between
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}

	out := &stream{hosts: s.Hosts, c: c, last: make(map[string]uint64)}
	for _, h := range all {
		out.last[h.Name] = h.LastEvent
	}
	if replay := c.QueryParam("after"); only != "" && replay != "" {
		if out.last[only], err = number(replay); err != nil {
			return err
		}
	}

	c.Response().Header().Set(echo.HeaderContentType, "application/x-ndjson")
	c.Response().WriteHeader(http.StatusOK)
	for _, h := range all {
		if only == "" || only == h.Name {
			if err := out.send(h.Name); err != nil {
				return err
			}
		}
	}

	c.Response().Flush()
	for name := range changed {
		if only != "" && only != name {
			continue
		}
		if err := out.send(name); err != nil {
			return err
		}
		c.Response().Flush()
	}

	return nil
}

// stream remembers which events of each host were sent.
type stream struct {
	hosts *hosts.Inventory
	c     echo.Context
	last  map[string]uint64
}

func (st *stream) send(name string) error {
	enc := json.NewEncoder(st.c.Response())
	h, err := st.hosts.Get(name)
	if errors.Is(err, hosts.ErrNotFound) {
		delete(st.last, name)
		return enc.Encode(News{Status: Status{Name: name}, Gone: true})
	}
	if err != nil {
		return err
	}

	events, err := st.hosts.Events(name, st.last[name])
	if err != nil {
		return err
	}

	for _, ev := range events {
		st.last[name] = ev.Number
		if err := enc.Encode(News{Event: &ev, Status: statusOf(h)}); err != nil {
			return err
		}
	}

	if len(events) > 0 {
		return nil
	}
	return enc.Encode(News{Status: statusOf(h)})
}
