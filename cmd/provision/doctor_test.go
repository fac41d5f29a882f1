package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// inside COMMAND... runs a command in the network namespace of the server that
// listens on the socket.
func inside(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("unix", ts.Getenv("PROVISION_SOCKET"))
	ts.Check(err)
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	ts.Check(err)
	var peer *unix.Ucred
	ts.Check(raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }))
	ts.Check(err)
	err = ts.Exec("nsenter", append([]string{"--net", "--target", strconv.Itoa(int(peer.Pid)), "--"}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// pretend FOLDER answers on the socket as a server does: GET /v1/NAME with
// FOLDER/NAME.json, in which @NOW@ and @RECENTLY@ are times.
func pretend(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.RemoveAll(ts.Getenv("PROVISION_SOCKET")))
	l, err := net.Listen("unix", ts.Getenv("PROVISION_SOCKET"))
	ts.Check(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		text, err := os.ReadFile(filepath.Join(dir, filepath.Base(r.URL.Path)+".json"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		at := func(ago time.Duration) string { return time.Now().Add(-ago).Format(time.RFC3339) }
		strings.NewReplacer("@NOW@", at(0), "@RECENTLY@", at(5*time.Minute)).WriteString(w, string(text))
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	ts.Defer(func() { srv.Close(); <-done })
}
