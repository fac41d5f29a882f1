package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// supervisor is the socket to which a server tells how it is, as systemd has one.
type supervisor struct{ conn *net.UnixConn }

func newSupervisor(name string) (*supervisor, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	return &supervisor{conn}, err
}

// await returns the next datagram that the expression matches, and what came before it.
func (s *supervisor) await(expression string) (before []string, err error) {
	want, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	data := make([]byte, 4096)
	for {
		n, err := s.conn.Read(data)
		if err != nil || want.Match(data[:n]) {
			return before, err
		}
		before = append(before, string(data[:n]))
	}
}

// supervise SOCKET opens a socket for servers that this script starts with it as NOTIFY_SOCKET.
func supervise(ts *testscript.TestScript, _ bool, args []string) {
	s, err := newSupervisor(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { s.conn.Close() })
	*ts.Value(supervisor{}).(*supervisor) = *s
}

// hears EXPRESSION waits until a server says what it matches.
func hears(ts *testscript.TestScript, _ bool, args []string) {
	if before, err := ts.Value(supervisor{}).(*supervisor).await(args[0]); err != nil {
		ts.Fatalf("nobody says %q: %v; before: %q", args[0], err, before)
	}
}

// TestNotify: a server is ready once it answers itself, and the watchdog hears of it only while it does.
func TestNotify(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@provision-test-" + strconv.Itoa(os.Getpid())} {
		s, err := newSupervisor(name)
		if err != nil {
			t.Fatal(err)
		}
		defer s.conn.Close()
		t.Setenv("NOTIFY_SOCKET", name)
		t.Setenv("WATCHDOG_USEC", "20000")
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
		n := newNotifier(slog.New(slog.DiscardHandler))
		for _, variable := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
			if _, is := os.LookupEnv(variable); is {
				t.Errorf("%s is left to what the server starts", variable)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked := 0
		check := func(ctx context.Context) (string, error) {
			asked++
			switch asked {
			case 1, 4:
				return "", errors.New("not now")
			case 3: // does not answer in time
				<-ctx.Done()
				return "", ctx.Err()
			case 6:
				cancel()
			}
			return strconv.Itoa(asked), nil
		}
		n.run(ctx, check)
		before, err := s.await("^STOPPING=1\n")
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"READY=1\nSTATUS=2", "WATCHDOG=1\nSTATUS=5"}
		if len(before) != 2 || before[0] != want[0] || before[1] != want[1] {
			t.Errorf("it said %q, want %q", before, want)
		}
	}
}

// TestNotifier: the watchdog of another process is not ours to answer, and without systemd nothing is done.
func TestNotifier(t *testing.T) {
	for _, test := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"3000000", "", 3 * time.Second},
		{"3000000", strconv.Itoa(os.Getpid()), 3 * time.Second},
		{"3000000", "1", 0},
		{"0", "", 0},
		{"-5", "", 0},
		{"soon", "", 0},
		{"", "", 0},
	} {
		t.Setenv("NOTIFY_SOCKET", "")
		t.Setenv("WATCHDOG_USEC", test.usec)
		t.Setenv("WATCHDOG_PID", test.pid)
		if n := newNotifier(slog.Default()); n.watchdog != test.want {
			t.Errorf("%v: %s", test, n.watchdog)
		}
	}
	n := &notifier{log: slog.Default()}
	n.run(t.Context(), func(context.Context) (string, error) {
		t.Error("asked for nobody")
		return "", nil
	})
}
