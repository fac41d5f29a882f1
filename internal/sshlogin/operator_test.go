package sshlogin

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// TestOperators: under sudo the keys and the agent are the caller's.
func TestOperators(t *testing.T) {
	accounts := map[string]*user.User{"0": {Uid: "0", Username: "root", HomeDir: "/root"}, "1000": {Uid: "1000", Username: "ada", HomeDir: "/home/ada"}}
	lookup := func(uid string) (*user.User, error) {
		if u := accounts[uid]; u != nil {
			return u, nil
		}
		return nil, errors.New("nobody")
	}
	proc := t.TempDir()
	process := func(pid, parent, uid int, env string) {
		t.Helper()
		dir := filepath.Join(proc, strconv.Itoa(pid))
		status := fmt.Sprintf("Name:\tx\nPPid:\t%d\nUid:\t%d\t0\t0\t0\n", parent, uid)
		err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600), os.WriteFile(filepath.Join(dir, "environ"), []byte(env), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	process(10, 1, 1000, "SSH_AUTH_SOCK=/of/the/session\x00")
	process(20, 10, 1000, "SSH_AUTH_SOCK=/of/the/login\x00HOME=/home/ada\x00") // a shell
	process(30, 20, 0, "A=b\x00SSH_AUTH_SOCK=/of/the/shell\x00")               // sudo
	process(31, 20, 0, "A=b\x00")                                              // sudo, where the shell has not exported it
	process(40, 31, 0, "HOME=/root\x00")                                       // sudo's own child
	process(50, 60, 0, "")
	process(60, 50, 0, "")
	process(70, 21, 0, "")
	process(21, 10, 1000, "HOME=/home/ada\x00") // the caller's, without an agent: the search ends
	for name, c := range map[string]struct {
		uid, parent int
		env         map[string]string
		want        string
	}{
		"nobody's sudo":     {0, 30, map[string]string{"HOME": "/root", "SSH_AUTH_SOCK": "/s"}, "root /root /s;"},
		"not root":          {1000, 30, map[string]string{"HOME": "/home/ada", "SUDO_UID": "1000"}, "ada /home/ada ;"},
		"sudo":              {0, 30, map[string]string{"HOME": "/root", "SUDO_UID": "1000"}, "ada /home/ada /of/the/shell;root /root ;"},
		"sudo's child":      {0, 40, map[string]string{"HOME": "/root", "SUDO_UID": "1000"}, "ada /home/ada /of/the/login;root /root ;"},
		"sudo keeps":        {0, 30, map[string]string{"HOME": "/home/ada", "SUDO_UID": "1000", "SSH_AUTH_SOCK": "/kept"}, "ada /home/ada /kept;"},
		"no agent":          {0, 70, map[string]string{"HOME": "/root", "SUDO_UID": "1000"}, "ada /home/ada ;root /root ;"},
		"a circle":          {0, 50, map[string]string{"HOME": "/root", "SUDO_UID": "1000"}, "ada /home/ada ;root /root ;"},
		"root's own sudo":   {0, 30, map[string]string{"HOME": "/root", "SUDO_UID": "0"}, "root /root ;"},
		"a caller who left": {0, 30, map[string]string{"HOME": "/root", "SUDO_UID": "4242"}, "find the home of sudo's caller (SUDO_UID 4242): nobody"},
		"no HOME":           {0, 30, nil, "root /root ;"},
	} {
		all, err := Process{UID: c.uid, Parent: c.parent, Getenv: func(k string) string { return c.env[k] }, Lookup: lookup, Proc: proc}.Operators()
		got := ""
		for _, o := range all {
			got += fmt.Sprintf("%s %s %s;", o.Name, o.Home, o.Agent)
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestCallersFiles: what sudo's caller has said comes before what root has, and both have keys and known hosts.
func TestCallersFiles(t *testing.T) {
	ada := operator(t, map[string]string{"config": "Host box\nUser ada\nIdentityFile ~/.ssh/lab\n"})
	root := operator(t, map[string]string{"config": "Host *\nUser root\nPort 2200\nIdentityFile %d/key\n"})
	l := &Login{Target: Target{Host: "box"}, Operators: []Operator{ada, root}}
	s, err := l.resolve(l.Target, true)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("ada 2200 [{%s false} {%s/key false}]", ada.file("lab"), root.Home)
	if got := fmt.Sprint(s.user, " ", s.port, " ", s.identities); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	l.Target.Host = "other"
	if s, err = l.resolve(l.Target, true); err != nil || s.knownHosts[0] != ada.file("known_hosts") || s.knownHosts[2] != root.file("known_hosts") {
		t.Errorf("known hosts: %q, %v", s.knownHosts, err)
	}
}
