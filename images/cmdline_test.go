package images

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCleanCmdline(t *testing.T) {
	for _, test := range []struct{ in, want, err string }{
		{"", "", ""},
		{"init=/nix/store/x/init initrd=initrd-x86_64-linux nohibernate loglevel=4 ${cmdline}", "init=/nix/store/x/init nohibernate loglevel=4", ""},
		{"  a\t b\n", "a b", ""},
		{"ip=${net0/ip} initrd=a initrd=b noinitrd=1 rdinit=/x", "noinitrd=1 rdinit=/x", ""},
		{`dyndbg="file a  +p" $x`, `dyndbg="file a  +p" $x`, ""},
		{"a || b", "", "iPXE"},
		{`a\`, "", "iPXE"},
		{"a\x1bb", "", "iPXE"},
		{"\"a\nb\"", "", "iPXE"},
		{strings.Repeat("x ", 1000), "", "cuts it off"},
	} {
		got, err := cleanCmdline(test.in)
		checkErr(t, err, test.err)
		if got != test.want {
			t.Errorf("cleanCmdline(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}

func TestIpxeCmdline(t *testing.T) {
	for _, test := range []struct{ name, in, want, err string }{
		{"release", "#!ipxe\n# kernel parameters may be added\n" +
			"kernel https://github.com/nix-community/nixos-images/releases/download/nixos-unstable/bzImage-x86_64-linux init=/nix/store/i-nixos-system-nixos/init initrd=initrd-x86_64-linux nohibernate loglevel=4 ${cmdline}\n" +
			"initrd https://github.com/nix-community/nixos-images/releases/download/nixos-unstable/initrd-x86_64-linux\nboot\n",
			"init=/nix/store/i-nixos-system-nixos/init initrd=initrd-x86_64-linux nohibernate loglevel=4 ${cmdline}", ""},
		{"options and a branch", "  kernel --name k -t 100 --autofree bzImage a b || goto fail\r\n", "a b", ""},
		{"continued line", "kernel bzImage \\\n a \\\n b\n", "a b", ""},
		{"no arguments", "kernel bzImage", "", ""},
		{"no kernel", "kernel --name\nboot", "", ""},
		{"nothing", "kernel", "", "names no kernel"},
		{"no kernel line", "#!ipxe\n#kernel x\nboot\n", "", "no kernel line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ipxeCmdline(test.in)
			checkErr(t, err, test.err)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// kexecRun has the form of the run script in tarballs of nixos-images since 2023.
const kexecRun = `#!/bin/sh
init="/nix/store/i-nixos-system-nixos/init"
kernelParams="console=tty0 'console=ttyS0,115200' 'nohibernate' 'loglevel=4'"
here=$(dirname "$0")
sh -c "'$here/kexec' --load '$here/bzImage' $flags \
  --initrd='$here/initrd' \
  --command-line 'init=$init $kernelParams'"
`

func TestRunCmdline(t *testing.T) {
	for _, test := range []struct{ name, in, want, err string }{
		{"now", kexecRun, "init=/nix/store/i-nixos-system-nixos/init console=tty0 console=ttyS0,115200 nohibernate loglevel=4", ""},
		{"until 2023", "  --initrd=final-initrd \\\n  --command-line \"init=/nix/store/i/init a 'b'\"\n", "init=/nix/store/i/init a 'b'", ""},
		{"line break before", "kexec --command-line \\\n \"init=/i\"", "init=/i", ""},
		{"append", `kexec --append="init=/i b"`, "init=/i b", ""},
		{"unquoted setting", "init=/i\nkexec --command-line \"init=${init}\"", "init=/i", ""},
		{"not set", `kexec --command-line "init=$init $more"`, "", "$init $more, which it does not set"},
		{"none", "#!/bin/sh\nexit\n", "", "without --command-line"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := runCmdline(test.in)
			checkErr(t, err, test.err)
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestParamsCmdline(t *testing.T) {
	dir := t.TempDir()
	system := filepath.Join(dir, "i-nixos-system")
	write(t, filepath.Join(system, "kernel-params"), "nohibernate loglevel=4")
	out := filepath.Join(dir, "netboot")
	must(t, os.Mkdir(out, 0o755))
	must(t, os.Symlink(filepath.Join(system, "kernel-params"), filepath.Join(dir, "link")))
	must(t, os.Symlink(filepath.Join(dir, "link"), filepath.Join(out, "kernel-params")))

	got, err := paramsCmdline(filepath.Join(out, "kernel-params"))
	if want := "init=" + system + "/init nohibernate loglevel=4"; got != want || err != nil {
		t.Errorf("linked: got %q, %v, want %q", got, err, want)
	}
	got, err = paramsCmdline(filepath.Join(system, "kernel-params"))
	if want := "nohibernate loglevel=4"; got != want || err != nil {
		t.Errorf("copied: got %q, %v, want %q", got, err, want)
	}
}

func FuzzCmdline(f *testing.F) {
	for _, s := range []string{"", kexecRun, "#!ipxe\nkernel k init=/i initrd=i ${cmdline}\n", `a="b c" d`, "kernel -n", `--append="$a"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fromIpxe, _ := ipxeCmdline(s)
		fromRun, _ := runCmdline(s)
		for _, in := range []string{s, fromIpxe, fromRun} {
			line, err := cleanCmdline(in)
			if err != nil {
				continue
			}
			if again, err := cleanCmdline(line); again != line || err != nil {
				t.Errorf("clean(%q) = %q, and again: %q, %v", in, line, again, err)
			}
			if strings.Contains(line, "${") || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' }) {
				t.Errorf("clean(%q) = %q", in, line)
			}
			if slices.ContainsFunc(splitArgs(line), func(w string) bool { return strings.HasPrefix(w, "initrd=") }) {
				t.Errorf("clean(%q) = %q", in, line)
			}
		}
	})
}

func write(t *testing.T, file, content string) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(content), 0o644))
	return file
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
