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
	Socket  string // path of the Unix socket, which gets mode 0600
	Group   string // if set, members of this group may use the socket too
	Serving Serving
	// Interfaces returns the interfaces that are served now, with the server's addresses on them.
	Interfaces func() map[string]netip.Addr
	// Programs is the folder with boot programs that complement or replace those built in; empty: none.
	Programs string

	Enroll *enroll.Service
	Hosts  *hosts.Inventory
	Images *images.Catalog
	Traces *hosts.Traces
	// Look asks the system that runs on a host's machine for its disks, and stores the answer in the inventory.
	Look func(ctx context.Context, host string) error
	// Reach tests whether the server can log in to a machine that is to be taken over.
	Reach func(context.Context, hosts.Takeover) (hosts.Reached, error)
	// Temp is the folder for files that exist as long as a request; empty: the system's.
	Temp string
	// Store writes a copy of all records.
	Store io.WriterTo
	Log   *slog.Logger

	listener net.Listener
	meter    meter
}

// Listen opens the socket. Call Run or Close after it.
func (s *Server) Listen(ctx context.Context) (err error) {
	s.listener, err = s.listen(ctx)
	return err
}

// Close closes and removes the socket, if Run is not called.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: withPeer}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		// Streams end with ctx; they get a moment to send their end.
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

// listen opens the socket. It replaces the socket file of a killed server, but not that of a running one.
func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}
	if c, err := new(net.Dialer).DialContext(ctx, "unix", s.Socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("open the API's socket: another server answers on %s; stop it or choose another "+
			"--socket", s.Socket)
	}
	if info, err := os.Lstat(s.Socket); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("open the API's socket: %s is there and is not a socket; choose another "+
			"--socket", s.Socket)
	}
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the API's socket: %w", err)
	}

	// Because of the umask, the socket is never accessible to others. As the umask is that of the whole process, nothing
	// else may run yet.
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

// share gives members of a group access to the socket.
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

// routes returns the handler for all requests; docs/api.md describes them.
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

// answerText returns the text of an error for an answer. It is shortened, as much of it may come from a flake or a
// machine.
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

// host returns the host that the path names. If there is none, the error lists the existing hosts.
func (s *Server) host(c echo.Context) (hosts.Host, error) { return s.named(c.Param("name")) }

// named returns a host by its name, with the same error as host.
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

// journal answers with the installer's journal from when the last install failed.
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

// array makes JSON encode an empty list as [] instead of null.
func array[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// number reads the number of an event; 0 if empty.
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

// trace answers with the last netboot of a machine, named by its MAC or its host's name. If the host has several MACs,
// it is that of the MAC that asked last.
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

// watch streams News: first the status of each host, then every change. ?host=NAME restricts it to one host; then
// ?after=N first sends the host's events with numbers greater than N.
func (s *Server) watch(c echo.Context) error {
	ctx := c.Request().Context()
	only := c.QueryParam("host")
	changed := s.Hosts.Watch(ctx) // before List, so that no change is missed between the two
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

// stream is an answer to watch. It remembers the last event that was sent for each host.
type stream struct {
	hosts *hosts.Inventory
	c     echo.Context
	last  map[string]uint64
}

// send sends the new events of a host, or its status if there are none.
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
