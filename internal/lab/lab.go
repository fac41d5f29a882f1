// Package lab builds virtual machines on a virtual LAN, with an installer image and a fleet flake to install on them.
//
// It is the test bed of provision, and no part of the product: an installer image that honours the same contract as
// the stock NixOS ones, a flake whose hosts are small bootable systems, a bridge in a network namespace of its own with
// a home router on it, and QEMU machines with real firmware. Everything that takes long to make is kept by content in
// a cache folder, so that a second run is quick.
//
// The commands it runs come from the Debian packages listed in packages.txt; nothing is fetched but Debian packages.
package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// CacheDir is where images and packages are kept between runs: $PROVISION_LAB_CACHE, or /var/cache/provision-lab.
func CacheDir() string {
	if dir := os.Getenv("PROVISION_LAB_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/provision-lab"
}

// run runs a command to its end and returns what it printed on stdout; an error holds the end of its stderr.
func run(ctx context.Context, name string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, name, args...))
}

// output runs cmd and returns its stdout, trimmed; an error names the command and holds the end of its stderr.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, tail(stderr.String(), 2000))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// tail returns at most the last n bytes of s, trimmed.
func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}
