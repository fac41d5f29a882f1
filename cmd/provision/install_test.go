package main

import (
	"net"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// freePort is a TCP port of loopback that nobody uses.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// serveAgent FILE is an SSH agent that holds a key; SSH_AUTH_SOCK names it.
func serveAgent(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ssh.ParseRawPrivateKey([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	ring := agent.NewKeyring()
	ts.Check(ring.Add(agent.AddedKey{PrivateKey: key}))
	// A socket's path has 108 characters at most.
	dir, err := os.MkdirTemp("", "agent")
	ts.Check(err)
	l, err := net.Listen("unix", dir+"/s")
	ts.Check(err)
	ts.Setenv("SSH_AUTH_SOCK", dir+"/s")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(ring, c) // until the client hangs up
			c.Close()
		}
	}()
	ts.Defer(func() {
		l.Close()
		<-done
		os.RemoveAll(dir)
	})
}

// saysKey FILE: what was printed on stderr last holds the fingerprint in FILE.
func saysKey(ts *testscript.TestScript, neg bool, args []string) {
	if want := strings.TrimSpace(ts.ReadFile(args[0])); strings.Contains(ts.ReadFile("stderr"), want) == neg {
		ts.Fatalf("stderr and the fingerprint %s", want)
	}
}
