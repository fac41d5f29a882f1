package handover

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadLoad(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for line, want := range map[string]string{
		`{"kernel":3,"initrd":4,"sha256":"` + sum + `","cmdline":"init=/x quiet"}` + "\n": "",
		`{"kernel":3,"initrd":4,"sha256":"` + sum + `","cmdline":""}`:                     "no line of JSON",
		strings.Repeat("x", 1<<17): "no line of JSON",
		"\n":                       "what is to be loaded",
		`{"kernel":3,"initrd":4,"sha256":"` + sum + `","cmdline":"","more":1}` + "\n":             "more",
		`{"kernel":-3,"initrd":4,"sha256":"` + sum + `","cmdline":""}` + "\n":                     "kernel",
		`{"kernel":0,"initrd":4,"sha256":"` + sum + `","cmdline":""}` + "\n":                      "0 bytes",
		`{"kernel":3,"sha256":"` + sum + `","cmdline":""}` + "\n":                                 "0;",
		`{"kernel":18446744073709551615,"initrd":4,"sha256":"` + sum + `","cmdline":""}` + "\n":   "each has 1 to",
		`{"kernel":3,"initrd":4,"sha256":"abc","cmdline":""}` + "\n":                              "64 hexadecimal digits",
		`{"kernel":3,"initrd":4,"sha256":"` + sum + `","cmdline":"init=/x\u0000 more"}` + "\n":    "more than one line",
		`{"kernel":3,"initrd":4,"sha256":"` + sum + `","cmdline":"init=/x\ninit=/bin/sh"}` + "\n": "more than one line",
		`{"kernel":3,"initrd":4294967297,"sha256":"` + sum + `","cmdline":"init=/x"}` + "\n":      "each has 1 to",
		`["kernel",3]` + "\n": "what is to be loaded",
	} {
		load, _, err := readLoad(bufio.NewReaderSize(strings.NewReader(line), 1<<16))
		if want == "" && (err != nil || load.Kernel != 3 || load.Initrd != 4 || load.Cmdline != "init=/x quiet") {
			t.Errorf("%q: got %+v, %v", line, load, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.200q: got %v, want %s", line, err, want)
		}
	}
}

func TestReceive(t *testing.T) {
	f, err := receive(strings.NewReader("kernel and more"), "kernel", 6)
	check(t, err)
	defer f.Close()
	if data, err := os.ReadFile(f.Name()); err == nil {
		t.Errorf("it is a file that others see: %s", data)
	}
	data := make([]byte, 20)
	if n, _ := f.ReadAt(data, 0); string(data[:n]) != "kernel" {
		t.Errorf("got %q", data[:n])
	}
	if _, err := receive(strings.NewReader("ker"), "kernel", 6); err == nil || !strings.Contains(err.Error(), "3 of 6 bytes") {
		t.Errorf("got %v", err)
	}
}

// TestKexecByTool has a program that writes down what it was given, in kexec's place.
func TestKexecByTool(t *testing.T) {
	dir := t.TempDir()
	script := func(text string) string {
		path := filepath.Join(dir, "kexec")
		check(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755))
		return path
	}
	kernel, err := receive(strings.NewReader("the kernel"), "kernel", 10)
	check(t, err)
	defer kernel.Close()
	initrd, err := receive(strings.NewReader("the initrd"), "initrd", 10)
	check(t, err)
	defer initrd.Close()
	program := script(`
for a in "$@"; do echo "$a"; done >` + dir + `/args
cat /proc/self/fd/3 /proc/self/fd/4 >` + dir + `/files
`)
	check(t, kexecByTool(t.Context(), program, kernel, initrd, "init=/x a b", unix.ENOSYS))
	for file, want := range map[string]string{
		"args":  "--load\n--kexec-syscall\n--initrd=/proc/self/fd/4\n--command-line=init=/x a b\n/proc/self/fd/3\n",
		"files": "the kernelthe initrd",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	err = kexecByTool(t.Context(), script("echo Cannot load it >&2; exit 1"), kernel, initrd, "", unix.ENOEXEC)
	if err == nil || !strings.Contains(err.Error(), "Cannot load it") || !strings.Contains(err.Error(), "--via netboot") {
		t.Errorf("got %v", err)
	}
	err = kexecByTool(t.Context(), "", kernel, initrd, "", unix.ENOSYS)
	if !errors.Is(err, unix.ENOSYS) || !strings.Contains(err.Error(), "install kexec-tools") {
		t.Errorf("got %v", err)
	}
}

// put writes files of a machine.
func put(t *testing.T, m Machine, files map[string]string) {
	t.Helper()
	for name, text := range files {
		check(t, os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
		check(t, os.WriteFile(m.path(name), []byte(text), 0o644))
	}
}

func TestKexecPermitted(t *testing.T) {
	const lockdown = "sys/kernel/security/lockdown"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"no kexec", nil, "CONFIG_KEXEC_CORE"},
		{"forbidden", map[string]string{kexecLoaded: "0\n", kexecDisabled: "1\n"}, "kernel.kexec_load_disabled is 1"},
		{"as many loaded as may be", map[string]string{kexecLoaded: "0\n", kexecDisabled: "0\n", kexecLimit: "0\n"}, "kernel.kexec_load_limit_reboot is 0"},
		{"lockdown", map[string]string{kexecLoaded: "0\n", kexecDisabled: "0\n", lockdown: "none [integrity] confidentiality\n"}, "in lockdown (integrity)"},
		{"more lockdown", map[string]string{kexecLoaded: "0\n", lockdown: "none integrity [confidentiality]\n"}, "in lockdown (confidentiality)"},
	} {
		m := Machine{Root: t.TempDir()}
		put(t, m, tt.files)
		if err := m.kexecPermitted(); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), otherWays) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for err, want := range map[error]string{
		unix.EPERM: "lockdown", unix.EKEYREJECTED: "signed", unix.ENOKEY: "signed", unix.ENOMEM: "no room",
		unix.EBUSY: "try again", unix.EINVAL: "another image", unix.EIO: otherWays,
	} {
		if got := refused(err); !errors.Is(got, err) || !strings.Contains(got.Error(), want) {
			t.Errorf("%v: got %v", err, got)
		}
	}
	if err := refused(nil); err != nil {
		t.Error(err)
	}
}

func TestWritable(t *testing.T) {
	for mounts, want := range map[string]bool{
		"/dev/sda1 / ext4 rw,relatime 0 0\n":                               true,
		"/dev/sda1 / ext4 ro,relatime 0 0\n/dev/sdb /a\\040b xfs rw 0 0\n": true,
		"/dev/sda1 / ext4 ro,relatime,errors=remount-ro 0 0\n":             false,
		"tmpfs /tmp tmpfs rw 0 0\nproc /proc proc rw 0 0\nshort\n":         false,
		"/dev/sda1 / btrfs rw,subvol=/root 0 0\n":                          false,
		"": false,
	} {
		if got := writable(mounts); got != want {
			t.Errorf("%q: %v", mounts, got)
		}
	}
}
