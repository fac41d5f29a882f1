package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/api"
	"provision/internal/lab"
)

// server is `provision serve`, one process after the other on one state folder.
type server struct {
	w      *world
	binary string
	log    *os.File // of all of them

	mu     sync.Mutex
	up     chan struct{} // closed once it answers
	pid    int
	ended  chan error
	peak   int64 // most memory that one of them had, bytes
	killed int
}

func newServer(w *world) *server {
	w.Helper()
	s := &server{w: w, up: make(chan struct{})}
	var err error
	s.binary, err = filepath.Abs("../../../bin/provision")
	w.must(err)
	if _, err := os.Stat(s.binary); err != nil {
		w.Fatalf("%v; run `make build` first", err)
	}
	s.log, err = os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	w.must(err)
	w.Cleanup(func() {
		if s.pid != 0 {
			s.end(unix.SIGKILL)
		}
		s.log.Close()
		if w.Failed() {
			text := s.text()
			w.Logf("the server's log ends:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return s
}

func (s *server) state() string  { return filepath.Join(s.w.dir, "state") }
func (s *server) socket() string { return filepath.Join(s.w.dir, "sock") }

// text is the log so far.
func (s *server) text() string {
	text, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// start returns once the server answers.
func (s *server) start() error {
	cmd := exec.Command(s.binary, "serve", "--flake", s.w.flake(), "--interface", s.w.lan.Interface,
		"--state-dir", s.state(), "--dhcp", "server", "--dhcp-range", "10.77.4.0-10.77.4.255")
	cmd.Env = append(lab.NixEnv(), "PROVISION_SOCKET="+s.socket())
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig is of the thread
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond) // there is no event before the socket is there
	defer tick.Stop()
	for {
		if _, err := s.request(s.w.ctx, http.MethodGet, "/v1/server", nil); err == nil {
			break
		}
		select {
		case <-tick.C:
		case err := <-ended:
			return fmt.Errorf("the server ended while it started: %v", err)
		case <-s.w.ctx.Done():
			return errors.New("the server does not answer")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.ended = cmd.Process.Pid, ended
	close(s.up)
	return nil
}

// end sends a signal that ends the server, and waits for that.
func (s *server) end(how unix.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	peak, err := lab.Peak(s.pid)
	if err != nil {
		return fmt.Errorf("the server had ended by itself: %v", <-s.ended)
	}
	s.peak = max(s.peak, peak)
	s.up = make(chan struct{})
	if err := unix.Kill(s.pid, how); err != nil {
		return err
	}
	<-s.ended // its status then says nothing
	s.pid = 0
	if how == unix.SIGKILL {
		s.killed++
	}
	return nil
}

// answers is closed while the server answers.
func (s *server) answers() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up
}

// open are how many files the server has open.
func (s *server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	if err != nil {
		return 0 // it ended by itself, which end tells
	}
	return len(all)
}

// What a server may have when all is quiet: it has 17 or 18 descriptors and 44 to 48 goroutines, one for each host; on a
// busy machine some are still ending, 55 were seen.
const (
	descriptors = 22
	goroutines  = 60
)

// quiet waits until the server has no more open than one that had nothing to do, and ends it in the way that prints
// its goroutines, to count them, too.
func (s *server) quiet() error {
	tick := time.NewTicker(100 * time.Millisecond) // nothing tells of a file that is closed
	defer tick.Stop()
	patience := time.After(90 * time.Second) // an idle HTTP connection is closed after a minute
	for {
		open := s.open()
		if open <= descriptors {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-patience:
		}
		s.w.Errorf("the server has %d descriptors when all is quiet", open)
		break
	}
	before := len(s.text())
	err := s.end(unix.SIGQUIT)
	all := strings.Split(s.text()[before:], "\n\ngoroutine ")
	// Those for DHCP packets are always as many, and some may not have been started yet.
	all = slices.DeleteFunc(all, func(g string) bool { return strings.Contains(g, "pxe.(*Server).serveDHCP.func") })
	if len(all) > goroutines {
		s.w.Errorf("the server had %d goroutines when all was quiet:\n%s", len(all), strings.Join(all, "\n\n"))
	}
	return errors.Join(err, os.Truncate(s.log.Name(), int64(before)))
}

// refusal is an answer that is not a success.
type refusal struct {
	status int
	words  string
}

func (r refusal) Error() string { return fmt.Sprintf("%d: %s", r.status, r.words) }

// request asks the API, and returns the answer's body. The error is a refusal, or the server was not there to the end.
func (s *server) request(ctx context.Context, method, path string, body any) ([]byte, error) {
	resp, err := s.ask(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		var f api.Failure
		if json.Unmarshal(data, &f) != nil || f.Error == "" {
			f.Error = fmt.Sprintf("no sentence: %q", data)
		}
		err = refusal{resp.StatusCode, f.Error}
	}
	s.w.journal.said(method+" "+path, data)
	return data, err
}

func (s *server) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var from io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		from = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://provision"+path, from)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.socket())
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	return client.Do(req)
}

// watch follows the server's news, those of the next one after each kill.
func (s *server) watch(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-s.answers():
		case <-ctx.Done():
			return
		}
		resp, err := s.ask(ctx, http.MethodGet, "/v1/watch", nil)
		if err != nil {
			continue
		}
		lines := json.NewDecoder(resp.Body)
		for {
			var raw json.RawMessage
			if lines.Decode(&raw) != nil {
				break
			}
			s.w.journal.said("watch", raw)
			var n api.News
			if err := json.Unmarshal(raw, &n); err != nil {
				s.w.Errorf("news %s: %v", raw, err)
			}
			s.w.pulses.happened(n.Status.Name)
		}
		resp.Body.Close()
	}
}
