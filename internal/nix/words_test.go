package nix

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"provision/internal/text"
)

func matches(pattern, text string) bool {
	return regexp.MustCompile("^" + pattern + "$").MatchString(text)
}

// TestExcerpt: of a long error the first and the last lines are there, and nothing of our own expression.
func TestExcerpt(t *testing.T) {
	long := []string{"warning: Git tree '/srv/fleet' is dirty", "error:",
		"       … while evaluating attribute 'devices'", "         at «string»:31:9:", "           30|   {", "           31|     inherit devices;", "             |     ^",
		"       … while evaluating a branch condition", "         at /nix/store/x-source/lib/lists.nix:57:9:", "           57|         if n == len", "             |         ^"}
	for i := range 60 {
		long = append(long, fmt.Sprintf("       … while evaluating level %d", i))
	}
	long = append(long, "       (stack trace truncated; use '--show-trace' to show the full, detailed trace)", "       error: the reason", "       and what to do")
	got := strings.Join(excerpt(long), "\n")
	for want, is := range map[string]bool{
		"error:\n       … while evaluating a branch condition\n         at /nix/store/x-source/lib/lists.nix:57:9:\n": true,
		"level 0": true, "level 30": false, "lines are left out)": true, "level 59": true,
		"error: the reason\n       and what to do": true,
		"string»": false, "inherit devices": false, "attribute 'devices'": false, "--show-trace": false, "dirty": false,
	} {
		if strings.Contains(got, want) != is {
			t.Errorf("%q is there: %v\n%s", want, !is, got)
		}
	}
	if n := len(excerpt(long)); n > 40 {
		t.Errorf("%d lines", n)
	}
	for _, tt := range []struct {
		name string
		said []string
		want string
	}{
		{"2.8, in our expression", []string{"error: attribute 'pkgs' missing", "       at (string):31:9:", "           30|   {", "             |     ^", "(use '--show-trace' to show detailed location information)"},
			"error: attribute 'pkgs' missing"},
		{"2.8, in the flake", []string{"error: no", "       at /nix/store/x-source/flake.nix:1:9:", "            1| { x", "             |     ^"},
			"error: no\n       at /nix/store/x-source/flake.nix:1:9:\n            1| { x\n             |     ^"},
		{"a builder", []string{"these 2 derivations will be built:", "  /nix/store/x.drv", "building '/nix/store/x.drv'...", "no such luck", "error: builder for x failed"},
			"no such luck\nerror: builder for x failed"},
		{"another program", []string{"bash: x: not found"}, "bash: x: not found"},
	} {
		if got := strings.Join(excerpt(tt.said), "\n"); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

func TestBrief(t *testing.T) {
	failed := &commandError{what: "nix eval", said: []string{"warning: x", "error: no", "       error: the reason"}, err: errors.New("exit status 1")}
	for want, err := range map[string]error{
		"the reason": fmt.Errorf("evaluate: %w", failed),
		"do this":    &explained{"do this", failed},
		"other":      errors.New("other"),
	} {
		if got := Brief(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestLines: a command that says very much is remembered from its start and its end.
func TestLines(t *testing.T) {
	var l lines
	for i := range 3 * kept {
		l.add(fmt.Sprint("\x1b[31m", i))
	}
	all := l.all()
	if len(all) != 2*kept+1 || all[0] != "0" || all[kept] != leftOut(kept) || all[2*kept] != fmt.Sprint(3*kept-1) {
		t.Errorf("%d lines: %s … %s … %s", len(all), all[0], all[kept], all[len(all)-1])
	}
}

// TestOutputIsBounded: a command that does not stop talking is ended, and of a line without an end no more than its
// start is kept.
func TestOutputIsBounded(t *testing.T) {
	out, err := commandOutput(exec.CommandContext(t.Context(), "yes"), nil)
	if err == nil || !strings.Contains(err.Error(), "yes: printed more than 64 MiB") || len(out) > maxOutput {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	endless := exec.CommandContext(t.Context(), "sh", "-c", `head -c 3000000 /dev/zero | tr '\0' x >&2; exit 1`)
	if _, err := commandOutput(endless, nil); err == nil || len(err.Error()) > 2*text.MaxLine {
		t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
	}
}
