package images

import (
	"fmt"
	"slices"
	"strings"
)

// Warnings lists, for people, what was accepted but is probably wrong with the image.
func (img Image) Warnings() []string {
	var all []string
	warn := func(format string, args ...any) {
		all = append(all, fmt.Sprintf("image "+img.Name+" "+format, args...))
	}
	if !slices.ContainsFunc(splitArgs(img.Cmdline), func(w string) bool { return strings.HasPrefix(w, "init=") }) {
		warn("has no init= in its command line: a NixOS image then ends in an emergency shell; " +
			"add it with --from, or give its own init=/nix/store/…/init with --cmdline")
	}
	l := img.Look
	if l == nil {
		return all
	}
	if l.Error != "" {
		warn("could not be looked into: its initrd: %s", l.Error)
	}
	if l.Contract == No && l.Stage1 == "script" {
		warn("has a stage 1 (a script) that does not take the keys out of the initrd, so provision could not log in: " +
			"use a kexec tarball of nixos-images, or images/nix/netboot-installer.nix of provision")
	}
	if img.needsRestore() {
		warn("has a stage 1 that does not take the keys out of the initrd: provision adds a unit to each boot that does; " +
			"this was tested with a stand-in only, a kexec tarball of nixos-images needs it not")
	}
	if l.SSHD == No {
		warn("has no sshd, so provision could not log in: build it with services.openssh.enable")
	}
	if len(l.Modules) > 0 && l.Kernel != "" && !slices.Contains(l.Modules, l.Kernel) {
		warn("has a kernel of version %s, and modules for %s in its initrd, which it cannot load: give kernel and "+
			"initrd of the same build",
			l.Kernel, strings.Join(l.Modules, ", "))
	}
	if len(l.NICs) == 0 && l.Error == "" {
		switch none := strings.Join(NetworkDrivers(img.Arch), ", "); {
		case !l.Squashfs:
			warn("has none of the common network drivers (%s): machines would not find the network", none)
		case img.Arch == AArch64:
			warn("has none of the common network drivers in its initrd (%s), but in its squashfs at most: "+
				"Raspberry Pis cannot netboot it", none)
		}
	}

	return all
}
