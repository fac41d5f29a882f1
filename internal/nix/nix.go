// Package nix runs the nix command on flakes: as the user to whom a flake belongs, without writing into it, and with
// errors that say what to do.
//
// [Settings] say how nix is run, and a [Flake] is what it is run on. A [Builder] evaluates and builds the hosts of a
// flake (nixosConfigurations), with a [Queue] that limits how many at a time; [Config] is what a flake says about one
// of them.
//
// The package gets what it needs as values, and knows neither the inventory nor the operator's choices. It imports
// disko, for the file systems of a layout, and text.
package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"provision/internal/text"
)

// Settings say how nix is run. nix 2.8 and later are supported.
type Settings struct {
	Options      []Option
	Impure       bool // evaluation may read what is not in the flake
	AcceptConfig bool // the flakes' own nixConfig is used
}

// Option is a setting as in nix.conf.
type Option struct{ Name, Value string }

// ParseOption reads NAME=VALUE.
func ParseOption(s string) (Option, error) {
	name, value, is := strings.Cut(s, "=")
	o := Option{strings.TrimSpace(name), strings.TrimSpace(value)}
	if !is || o.Name == "" || strings.ContainsAny(o.Name, " \t#") || strings.ContainsAny(o.Value, "\n\r") {
		return o, fmt.Errorf("%q: write NAME=VALUE, as in nix.conf, such as connect-timeout=5", name)
	}
	return o, nil
}

// Features are the flags that enable flakes in nix, whatever its settings are.
var Features = []string{"--extra-experimental-features", "nix-command flakes"}

// conf returns the settings, after the options in more, in the format of nix.conf.
func (s Settings) conf(more []Option) string {
	var b strings.Builder
	for _, o := range slices.Concat(more, s.Options) {
		fmt.Fprintf(&b, "%s = %s\n", o.Name, o.Value)
	}
	if s.AcceptConfig {
		b.WriteString("accept-flake-config = true\n")
	}
	if b.Len() == 0 {
		return ""
	}

	// nix reads settings about flakes from NIX_CONFIG only if flakes are enabled there too; the arguments come too late.
	return "extra-experimental-features = " + Features[1] + "\n" + b.String()
}

// Env returns the environment of a nix command that runs as the server's user. The settings are in the environment and
// not among the arguments, since they may hold a token. The variables of sudo are removed: git trusts repositories of
// the user who called sudo, and would run what that user has put there.
func (s Settings) Env() []string { return s.env(nil) }

// env is Env with further options.
func (s Settings) env(more []Option) []string {
	conf := s.conf(more)
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "SUDO_") || conf != "" && name == "NIX_CONFIG"
	})
	if conf != "" {
		env = append(env, "NIX_CONFIG="+os.Getenv("NIX_CONFIG")+"\n"+conf)
	}
	return env
}

// Run runs nix as the server's user and returns its output. It is for commands on the store; the methods of [Flake] are
// for commands that read a flake. line, if not nil, is called with each line of nix's messages; the error has the first
// and the last of them.
func (s Settings) Run(ctx context.Context, line func(string), args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nix", slices.Concat(Features, args)...)
	cmd.Env = s.Env()
	return commandOutput(cmd, line)
}

// maxOutput bounds the output of nix and git in bytes. For the closure of a desktop, nix prints about 10 MB.
const maxOutput = 64 << 20

// commandOutput is [Logged], and returns the command's output.
func commandOutput(cmd *exec.Cmd, line func(string)) ([]byte, error) {
	var out bytes.Buffer
	var tooMuch error
	cmd.Stdout = &text.Limit{To: &out, Most: maxOutput, Full: func(err error) {
		tooMuch = err
		_ = cmd.Process.Kill() // it may have ended
	}}
	err := Logged(cmd, line)
	if tooMuch != nil {
		err = fmt.Errorf("%s: %w", called(cmd), tooMuch)
	}
	return out.Bytes(), err
}

// Logged runs a command and calls line, if not nil, with each line of its messages. The error has the first and the
// last of them.
func Logged(cmd *exec.Cmd, line func(string)) error {
	var said lines
	stderr := text.Lines{To: func(s string) {
		if line != nil {
			line(s)
		}
		said.add(s)
	}}

	// If the server is killed, a copy that goes on would keep /mnt busy.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL

	// Waiting for a process blocks a thread, reading from a pipe does not. So the process is waited for last.
	pipe, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, readErr := stderr.ReadFrom(pipe)
		err = errors.Join(readErr, cmd.Wait())
	}

	stderr.End()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed on this machine, or not in PATH: see "+
			"https://nixos.org/download", cmd.Args[0])
	}
	if err != nil {
		return &commandError{what: called(cmd), said: said.all(), err: err}
	}

	return nil
}

// commandError means that a command failed, and has its messages.
type commandError struct {
	what string
	said []string
	err  error
}

func (e *commandError) Unwrap() error { return e.err }

func (e *commandError) Error() string {
	message := fmt.Sprintf("%s: %v", e.what, e.err)
	if words := excerpt(e.said); len(words) > 0 {
		message += ":\n  " + strings.Join(words, "\n  ")
	}
	return message
}

// called returns the program and its first argument, without the flags in Features. That is enough to say which command
// of nix failed.
func called(cmd *exec.Cmd) string {
	args := cmd.Args[1:]
	if len(args) > len(Features) && slices.Equal(args[:len(Features)], Features) {
		args = args[len(Features):]
	}
	return strings.Join(append([]string{cmd.Args[0]}, args[:min(len(args), 1)]...), " ")
}

// version returns the major and minor version of nix; 2.8 if it cannot be found out.
func version(ctx context.Context) (major, minor int) {
	out, err := exec.CommandContext(ctx, "nix", "--version").Output()
	if err == nil {
		major, minor, err = ParseVersion(string(out))
	}
	if err != nil {
		return 2, 8
	}
	return major, minor
}

// ParseVersion reads the output of nix --version.
func ParseVersion(s string) (major, minor int, err error) {
	m := versionNumber.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("nix --version printed no version: %.100q", s)
	}
	major, err = strconv.Atoi(m[1])
	if err != nil {
		return 0, 0, err
	}
	minor, err = strconv.Atoi(m[2])
	return major, minor, err
}
