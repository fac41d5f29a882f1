// Package nix runs the nix command on flakes: as the user whom a flake belongs to, without writing into it, and with
// errors that say what to do.
//
// [Settings] are how nix is run, and a [Flake] is what it is run on. A [Builder] evaluates and builds the hosts of a
// flake (nixosConfigurations), a few at a time, in a [Queue]; [Config] is what a flake says about one of them.
//
// It takes what it needs as values and knows neither the inventory nor what an operator chose. Of the house it imports
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

// Settings are how nix is run. Its version 2.8 must do.
type Settings struct {
	Options      []Option
	Impure       bool // evaluation may look at what is not in the flake
	AcceptConfig bool // flakes' own nixConfig is heeded
}

// Option is a setting of nix.conf.
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

// Features are the flags that have nix know flakes, whatever its settings say.
var Features = []string{"--extra-experimental-features", "nix-command flakes"}

// conf is nix.conf's form of our settings and of more.
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
	// Without them nix takes no setting of flakes from its variable; those among the arguments come too late.
	return "extra-experimental-features = " + Features[1] + "\n" + b.String()
}

// Env is the environment of a nix command that runs as ourselves. The settings are in it and not among the arguments,
// for they may hold a token. Git is not told who called sudo: it would then run what that user has put into a
// repository.
func (s Settings) Env() []string { return s.env(nil) }

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

// Run runs nix as ourselves and returns its output. It is for what is in the store already; what reads a flake is for
// the methods of [Flake]. Each line of its messages goes to line, if given; the last of them are in the error.
func (s Settings) Run(ctx context.Context, line func(string), args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nix", slices.Concat(Features, args)...)
	cmd.Env = s.Env()
	return commandOutput(cmd, line)
}

// maxOutput bounds what nix and git may print, in bytes: of a desktop's closure nix tells about ten MB.
const maxOutput = 64 << 20

// commandOutput is [Logged], and returns what the command printed.
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

// Logged runs a command and hands each line of its messages to line. The first and last of them are in the error.
func Logged(cmd *exec.Cmd, line func(string)) error {
	var said lines
	stderr := text.Lines{To: func(s string) {
		if line != nil {
			line(s)
		}
		said.add(s)
	}}
	// A copy that outlives a killed server would keep /mnt busy.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// Who waits for a process has a thread, who waits for what it says has none: its end is waited for last.
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
		return fmt.Errorf("%s is not installed on this machine, or not in PATH: see https://nixos.org/download", cmd.Args[0])
	}
	if err != nil {
		return &commandError{what: called(cmd), said: said.all(), err: err}
	}
	return nil
}

// commandError is that a command failed, with what it said.
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

// called is the program and its first argument that is not a flag or its value: enough to say which of nix's commands
// failed.
func called(cmd *exec.Cmd) string {
	args := cmd.Args[1:]
	if len(args) > len(Features) && slices.Equal(args[:len(Features)], Features) {
		args = args[len(Features):]
	}
	return strings.Join(append([]string{cmd.Args[0]}, args[:min(len(args), 1)]...), " ")
}

// version is nix's, as major and minor number; 2.8 if it does not say.
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

// ParseVersion reads what nix --version prints.
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
