package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"provision/hosts"
	"provision/internal/api"
)

// notifier tells systemd how the server is, as sd_notify(3) describes it: lines of NAME=VALUE, in a datagram to a Unix
// socket. Where systemd did not start the server, it does nothing.
type notifier struct {
	socket   string        // a path, or '@' and an abstract name; "": nobody listens
	watchdog time.Duration // within which systemd wants to hear of us; 0: it does not
	log      *slog.Logger
}

// newNotifier takes what systemd says out of the environment: what the server starts is not to speak for it.
func newNotifier(log *slog.Logger) *notifier {
	n := &notifier{socket: os.Getenv("NOTIFY_SOCKET"), log: log}

	// See sd_watchdog_enabled(3). The number is missing if any process may answer.
	pid := os.Getenv("WATCHDOG_PID")
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err == nil && micros > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(micros) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	return n
}

// tell sends lines in one datagram.
func (n *notifier) tell(lines ...string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(strings.Join(lines, "\n")))
		conn.Close()
	}
	if err != nil {
		n.log.Warn("systemd was not told how the server is", "what", lines[0], "err", err)
	}
}

// run says that the server is ready, then, twice in the time that the watchdog allows, that it is alive, and when ctx
// ends, that it stops. Both go with what check says; a check that fails or does not return keeps systemd waiting, which
// then restarts the server.
func (n *notifier) run(ctx context.Context, check func(context.Context) (status string, err error)) {
	if n.socket == "" {
		return
	}
	defer n.tell("STOPPING=1", "STATUS=stopping")

	news := "READY=1"
	patience := 30 * time.Second
	if n.watchdog > 0 {
		patience = n.watchdog / 2
	}
	tick := time.NewTicker(patience)
	defer tick.Stop()

	for {
		brief, cancel := context.WithTimeout(ctx, patience)
		status, err := check(brief)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			n.log.Error("the server does not answer itself, and systemd may restart it", "err", err)
		default:
			n.tell(news, "STATUS="+status)
			news = "WATCHDOG=1"
		}

		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// liveness is what has to work for the server to be alive.
type liveness struct {
	inventory *hosts.Inventory
	daemon    *api.Client
}

// check reads from the store, and asks the server on its own socket, which looks at the interfaces that are served.
func (l liveness) check(ctx context.Context) (status string, err error) {
	if _, err := l.inventory.ByToken(""); err != nil && !errors.Is(err, hosts.ErrNotFound) {
		return "", fmt.Errorf("read the inventory: %w", err)
	}
	var now api.Serving
	if err := l.daemon.Call(ctx, "GET", api.ServerPath, nil, &now); err != nil {
		return "", err
	}

	var served []string
	for _, i := range now.Interfaces {
		served = append(served, fmt.Sprintf("%s (%s)", i.Name, i.Address))
	}
	if len(served) == 0 {
		served = []string{"no interface"}
	}
	status = "answering on " + strings.Join(served, ", ")
	if len(now.WaitsFor) > 0 {
		status += "; waiting for " + strings.Join(now.WaitsFor, ", ")
	}
	return status, nil
}
