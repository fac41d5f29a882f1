package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"provision/hosts"
	"provision/internal/text"
)

// elsewhere are the options of nixos-anywhere that have another name here, or none: what is the same here.
var elsewhere = map[string]string{
	"f": "the flake is the server's (provision serve --flake REF); name the host " +
		"instead: provision install HOST --ssh ADDRESS",
	"flake": "the flake is the server's (provision serve --flake REF); name the host " +
		"instead: provision install HOST --ssh ADDRESS",
	"target-host":  "provision install HOST --ssh [USER@]ADDRESS[:PORT]",
	"p":            "--ssh [USER@]ADDRESS:PORT",
	"ssh-port":     "--ssh [USER@]ADDRESS:PORT",
	"ssh-option":   "~/.ssh/config is read; put it there",
	"env-password": "a password is asked for on the terminal",
	"tty":          "a password is asked for on the terminal",
	"kexec":        "--image NAME, after provision images add NAME --from TARBALL",
	"force-kexec":  "--via kexec",
	"kexec-extra-flags": "the kernel is loaded without kexec-tools, so that it has no flags; " +
		"--kernel-param adds to the installer's command line",
	"post-kexec-ssh-port": "--post-kexec-port PORT",
	"copy-host-keys": "--host-key FILE takes a key that you have; without it the host keeps the key " +
		"that provision made for it",
	"disk-encryption-keys": "--disk-encryption-key REMOTE=LOCAL, in one word",
	"store-paths": "--store-path SYSTEM; the layout is the flake's (--disko script runs the " +
		"flake's own script)",
	"disko-mode":    "--disko fresh (nixos-anywhere's disko), format or mount",
	"no-disko-deps": "nothing of disko is sent to the machine: leave it out",
	"phases": "an install goes through all of its phases, and from where it stopped after " +
		"provision retry; --dry-run stops before the first change",
	"stop-after-disko": "an install goes through all of its phases; --dry-run stops before the first change",
	"no-reboot": "an install ends with the proof that the host starts from its disk, so that " +
		"the machine restarts",
	"vm-test": "--dry-run does all that comes before the first change, on the machine; " +
		"provision plan HOST shows the disks",
	"build-on-remote": "--build-on target",
	"from":            "provision serve --nix-option substituters=URL",
	"option":          "provision serve --nix-option NAME=VALUE",
	"L": "provision serve --verbose logs what nix says; provision logs HOST has why a " +
		"build failed",
	"print-build-logs": "provision serve --verbose logs what nix says; provision logs HOST has why a " +
		"build failed",
	"show-trace":                   "provision serve --nix-option show-trace=true",
	"debug":                        "provision serve --verbose",
	"no-substitute-on-destination": "the machine fetches from its own caches with --substituters-on-target only",
	"no-use-machine-substituters":  "the machine fetches from its own caches with --substituters-on-target only",
	"ssh-store-setting":            "--copy-over http compresses by itself where that is faster",
}

// unknownFlag says what to write instead of a flag that a command has not.
func unknownFlag(c *cobra.Command, unknown *pflag.NotExistError) error {
	name := unknown.GetSpecifiedName()
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	if here := elsewhere[name]; here != "" && installs(c) {
		return fmt.Errorf("%s%s is of nixos-anywhere; here: %s", dashes, name, here)
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := text.Nearest(name, names); near != "" && len(name) > 1 {
		return fmt.Errorf("%w; did you mean --%s?", unknown, near)
	}
	return fmt.Errorf("%w; see `%s --help`", unknown, c.CommandPath())
}

// unknownCommand says which command may have been meant.
func unknownCommand(c *cobra.Command, word string) error {
	c.SuggestionsMinimumDistance = 2
	hint := fmt.Sprintf("see `%s --help`", c.CommandPath())
	if near := c.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return errUsage{fmt.Errorf("unknown command %q; %s", word, hint)}
}

// installs tells whether somebody who knows nixos-anywhere may have meant this command.
func installs(c *cobra.Command) bool {
	switch c.Name() {
	case "provision", "enroll", "install", "reinstall":
		return true
	}
	return false
}

// misplaced says what was meant, where enroll was given the host first, or a host with its flake.
func misplaced(mac, host string) error {
	isMAC := func(s string) bool {
		_, err := hosts.ParseMAC(strings.Split(s, ",")[0])
		return err == nil
	}
	if isMAC(host) && !isMAC(mac) {
		return fmt.Errorf("the MAC comes first: provision enroll %s %s", host, mac)
	}
	_, name, has := strings.Cut(host, "#")
	if !has {
		return nil
	}
	name = cmp.Or(strings.TrimPrefix(name, "nixosConfigurations."), "HOST")
	return fmt.Errorf("the flake is the server's (provision serve --flake REF); name the host alone: provision "+
		"enroll %s %s",
		mac, name)
}
