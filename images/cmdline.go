package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxCmdline is COMMAND_LINE_SIZE of Linux in bytes (2048 on x86 and arm64; the kernel silently cuts off the rest) less
// the space for what the server adds.
const maxCmdline = 2048 - 256

// cleanCmdline removes from a kernel command line what does not belong to the image: initrd= arguments, which the
// server sets, and words with variables of iPXE, such as ${cmdline}. The other words stay as they are. Words that iPXE
// would interpret, and a command line that is too long, are errors.
func cleanCmdline(s string) (string, error) {
	var keep []string
	for _, w := range splitArgs(strings.TrimSpace(s)) {
		if strings.HasPrefix(w, "initrd=") || strings.Contains(w, "${") {
			continue
		}
		// It becomes a line of an iPXE script, where these would end or continue a command.
		if w == "||" || w == "&&" || strings.HasSuffix(w, `\`) || strings.ContainsFunc(w, isControl) {
			return "", fmt.Errorf("command line: %q cannot be passed on by iPXE: leave it out", w)
		}
		keep = append(keep, w)
	}

	line := strings.Join(keep, " ")
	if len(line) > maxCmdline {
		return "", fmt.Errorf("command line of %d bytes: the kernel cuts it off; at most %d fit", len(line), maxCmdline)
	}
	return line, nil
}

// isControl reports whether r is an ASCII control character.
func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// splitArgs splits at white space outside double quotes, as the kernel does (next_arg in lib/cmdline.c of Linux).
func splitArgs(s string) []string {
	var all []string
	start, quoted := -1, false
	for i := range len(s) {
		switch space := strings.IndexByte(" \t\r\n", s[i]) >= 0 && !quoted; {
		case space && start >= 0:
			all = append(all, s[start:i])
			start = -1
		case !space && start < 0:
			start = i
		}
		if s[i] == '"' {
			quoted = !quoted
		}
	}

	if start >= 0 {
		all = append(all, s[start:])
	}
	return all
}

// ipxeCmdline returns the command line in the kernel line of a netboot.ipxe:
//
//	kernel bzImage-x86_64-linux init=/nix/store/…-nixos-system/init initrd=initrd-x86_64-linux loglevel=4 ${cmdline}
func ipxeCmdline(script string) (string, error) {
	for line := range strings.Lines(strings.ReplaceAll(script, "\\\n", " ")) {
		w := splitArgs(line)
		if len(w) == 0 || w[0] != "kernel" {
			continue
		}
		w = w[1:]
		for len(w) > 1 && strings.HasPrefix(w[0], "-") { // such as --name NAME, --timeout MS, --autofree
			if slices.Contains([]string{"-n", "--name", "-t", "--timeout"}, w[0]) {
				w = w[1:]
			}
			w = w[1:]
		}

		if i := slices.IndexFunc(w, func(s string) bool { return s == "||" || s == "&&" }); i >= 0 {
			w = w[:i]
		}
		if len(w) == 0 {
			return "", errors.New("its kernel line names no kernel")
		}
		return strings.Join(w[1:], " "), nil
	}

	return "", errors.New("it has no kernel line")
}

// runCmdline returns the command line in the run script of a kexec tarball. The script passes it to kexec directly,
// --command-line "init=… …", or, in tarballs since 2023, through shell variables in a string for sh -c:
//
//	init="/nix/store/…/init"
//	kernelParams="'console=tty0' 'loglevel=4'"
//	sh -c "… --command-line 'init=$init $kernelParams'"
func runCmdline(script string) (string, error) {
	call := regexp.MustCompile(`--(?:command-line|append)[=\s\\]+(?:"([^"]*)"|'([^']*)')`).FindStringSubmatch(script)
	if call == nil {
		return "", errors.New("it calls kexec without --command-line")
	}
	var unknown []string
	line := os.Expand(call[1]+call[2], func(name string) string {
		set := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(name) + `=(?:"([^"]*)"|([^\s"]*)$)`).FindStringSubmatch(script)
		if set == nil {
			unknown = append(unknown, "$"+name)
			return ""
		}
		return set[1] + set[2]
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("its command line holds %s, which it does not set", strings.Join(unknown, " "))
	}
	if call[2] != "" { // sh -c removes the quotes that nix puts around parameters
		line = strings.ReplaceAll(line, "'", "")
	}
	return line, nil
}

// paramsCmdline returns the command line in the kernel-params file that nixos-images' netboot-installer builds. The
// file is a link into the system that has the init.
func paramsCmdline(file string) (string, error) {
	params, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", err
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err != nil {
		return "", err
	}
	if system := filepath.Dir(real); system != folder {
		return "init=" + system + "/init " + string(params), nil
	}
	return string(params), nil // it was copied out of the store, so the init is not known; see Image.Warnings
}
