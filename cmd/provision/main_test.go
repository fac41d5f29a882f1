package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"provision/internal/initrd"
	"provision/internal/store"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"provision": main})
}

// TestScripts runs the real main. Where a server is needed, it runs in a
// network namespace of its own (unshare), so root is needed, as for serve
// itself; its socket is reached from outside.
func TestScripts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run as root: the server under test opens ports 67 and 69 in a network namespace")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[supervisor{}] = new(supervisor)
			env.Setenv("HOME", env.WorkDir)           // nix wants one
			env.Setenv("GORACE", "atexit_sleep_ms=0") // each command would end a second late
			env.Setenv("PROVISION_SOCKET", filepath.Join(env.WorkDir, "sock"))
			layouts, err := filepath.Abs("../../disko/testdata/layouts")
			if err != nil {
				return err
			}
			env.Setenv("LAYOUTS", layouts)
			for _, script := range []string{"lan.sh", "machine.sh"} {
				data, err := os.ReadFile("testdata/" + script)
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, script), data, 0o644); err != nil {
					return err
				}
			}
			port, err := freePort()
			if err != nil {
				return err
			}
			env.Setenv("SSHPORT", port)
			env.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nexperimental-features = nix-command flakes\nbuild-users-group =")
			// What this machine's own nix.conf says is none of the tests' business.
			conf := filepath.Join(env.WorkDir, "no-nix-conf")
			env.Setenv("NIX_CONF_DIR", conf)
			env.Setenv("NIX_USER_CONF_FILES", "")
			return os.Mkdir(conf, 0o755)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":  status,
			"mkimage": mkimage,
			"mkboot":  mkboot,
			"flip":    flip,
			"answers": answers,
			"inside":  inside,
			"pretend": pretend,
			"listens": listens,
			"agent":   serveAgent,
			"sayskey": saysKey,
			"record":  record,

			"supervise": supervise,
			"hears":     hears,
		},
	})
}

// status N COMMAND... runs a command that must end with exit status N.
func status(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%s ended with status %d, want %s", args[1], got, args[0])
	}
}

// mkimage FOLDER ARCH [bare] makes netboot release files with just enough in
// them to pass for a kernel and an initrd; with bare, these lack what an installer needs.
func mkimage(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(writeImage(ts.MkAbs(args[0]), args[1], len(args) > 2))
}

func writeImage(dir, arch string, bare bool) error {
	kernel := make([]byte, 4096)
	name := "bzImage-x86_64-linux"
	if arch == "aarch64" {
		name = "Image-aarch64-linux"
		copy(kernel[0x38:], "ARM\x64")
	} else {
		copy(kernel[0x1fe:], "\x55\xaa")
		copy(kernel[0x202:], "HdrS\x0f\x02") // boot protocol 2.15
		copy(kernel[0x236:], "\x03\x00")     // XLF_KERNEL_64
	}
	inside := []initrd.File{{Path: "init", Mode: 0o755, Data: []byte("#!/bin/sh\n")}}
	if !bare {
		inside = []initrd.File{
			{Path: "init", Mode: 0o755, Data: []byte("#!/bin/sh\ncp /ssh/authorized_keys /root/.ssh/\n")},
			{Path: "bin/sshd", Mode: 0o755},
			{Path: "lib/modules/6.12.30/kernel/drivers/net/virtio_net.ko", Mode: 0o644},
		}
	}
	script := "#!ipxe\nkernel " + name + " init=/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos/init initrd=initrd loglevel=4 ${cmdline}\n"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, data := range map[string][]byte{name: kernel, "initrd-" + arch + "-linux": initrd.Overlay(inside), "netboot-" + arch + "-linux.ipxe": []byte(script)} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// flip GLOB flips a bit in the middle of the largest file that matches.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	var data []byte
	var name string
	for _, f := range files {
		d, err := os.ReadFile(f)
		ts.Check(err)
		if len(d) > len(data) {
			name, data = f, d
		}
	}
	data = slices.Clone(data)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(name, data, 0o644))
}

// record FILE KEY VALUE sets a record of a store.
func record(ts *testscript.TestScript, _ bool, args []string) {
	db, err := store.OpenBolt(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(db.Commit(context.Background(), nil, []store.Write{store.Put(args[1], []byte(args[2]))}))
	ts.Check(db.Close())
}

// answers waits until something listens on the server's socket.
func answers(ts *testscript.TestScript, _ bool, _ []string) {
	await(ts, "unix", ts.Getenv("PROVISION_SOCKET"))
}

// listens ADDRESS waits until something listens there.
func listens(ts *testscript.TestScript, _ bool, args []string) { await(ts, "tcp", args[0]) }

func await(ts *testscript.TestScript, network, address string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("nothing answers: %v", err)
		case <-time.After(20 * time.Millisecond): // the server has no event to offer before its socket
		}
	}
}
