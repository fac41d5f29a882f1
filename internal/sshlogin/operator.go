package sshlogin

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Operator is a user of this machine whose SSH settings and keys are used.
type Operator struct {
	Name, UID, Home string
	Agent           string // socket of the SSH agent; "": none
}

// file returns the path of a file in the operator's ~/.ssh.
func (o Operator) file(name string) string { return filepath.Join(o.Home, ".ssh", name) }

// Process is what the running program knows about itself and about who started it.
type Process struct {
	UID    int
	Parent int // process ID of the parent
	Getenv func(string) string
	Lookup func(uid string) (*user.User, error)
	Proc   string // the folder of proc(5)
}

// ThisProcess returns the running program.
func ThisProcess() Process {
	return Process{UID: os.Geteuid(), Parent: os.Getppid(), Getenv: os.Getenv, Lookup: user.LookupId, Proc: "/proc"}
}

// Operators returns the user who called sudo, if any, and the user as whom this process runs. The keys and known hosts
// of people are in their own homes, whereas sudo sets HOME to root's.
func (p Process) Operators() ([]Operator, error) {
	self := Operator{UID: strconv.Itoa(p.UID), Home: p.Getenv("HOME"), Agent: p.Getenv("SSH_AUTH_SOCK")}
	account, err := p.Lookup(self.UID)
	if err == nil {
		self.Name = account.Username
	}
	if self.Home == "" && err == nil {
		self.Home = account.HomeDir
	}

	if self.Home == "" {
		return nil, fmt.Errorf("find the folder of your SSH keys: HOME is not set: %w", err)
	}
	uid := p.Getenv("SUDO_UID")
	if p.UID != 0 || uid == "" || uid == "0" {
		return []Operator{self}, nil
	}
	account, err = p.Lookup(uid)
	if err != nil {
		return nil, fmt.Errorf("find the home of sudo's caller (SUDO_UID %s): %w", uid, err)
	}

	caller := Operator{Name: account.Username, UID: uid, Home: account.HomeDir, Agent: self.Agent}
	if caller.Agent == "" {
		caller.Agent = p.callersAgent(uid)
	}
	if caller.Home == self.Home { // sudo kept HOME
		return []Operator{caller}, nil
	}
	return []Operator{caller, self}, nil
}

// callersAgent returns the agent's socket from the environment of sudo or of the processes that started it, since sudo
// removes it from ours. The search ends at the first process of the caller.
func (p Process) callersAgent(uid string) string {
	const most = 10 // most processes between this one and the caller's shell
	pid := p.Parent
	for range most {
		dir := filepath.Join(p.Proc, strconv.Itoa(pid))
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			return ""
		}

		for setting := range bytes.SplitSeq(env, []byte{0}) {
			if socket, ok := bytes.CutPrefix(setting, []byte("SSH_AUTH_SOCK=")); ok && len(socket) > 0 {
				return string(socket)
			}
		}

		parent, owner := readStatus(filepath.Join(dir, "status"))
		if owner == uid || parent <= 1 {
			return ""
		}
		pid = parent
	}

	return ""
}

// readStatus reads a process's parent and its real user ID from proc_pid_status(5).
func readStatus(file string) (parent int, uid string) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, ""
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "PPid:":
			parent, _ = strconv.Atoi(fields[1]) // 0 ends the search
		case fields[0] == "Uid:":
			uid = fields[1]
		}
	}

	return parent, uid
}

// defaultKeys returns the key files that are used if none is named.
func defaultKeys(operators []Operator) []identity {
	var all []identity
	for _, o := range operators {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			all = append(all, identity{file: o.file(name)})
		}
	}
	return all
}

// agents returns the sockets of the operators' agents, without duplicates.
func agents(operators []Operator) []string {
	var all []string
	for _, o := range operators {
		if o.Agent != "" && !slices.Contains(all, o.Agent) {
			all = append(all, o.Agent)
		}
	}
	return all
}
