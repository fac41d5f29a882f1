// Package nixes runs the tests that run nix once more with the nix of each Debian release, in a root of its own.
package nixes

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"provision/internal/lab"
)

// programs are the packages of what the tests run. "-PATTERN" is what those depend on and these do without.
var programs = strings.Fields(`nix-bin git base-passwd bash dash coreutils sed grep findutils util-linux mount
	cryptsetup-bin curl iproute2 gzip tar zstd -perl* -libperl* -adduser -dpkg -debconf`)

// enter makes the folder $1 the root, where what is written stays in memory, and runs the test program $3 in the folder
// $4 of the source $2. The shell does not become the program: process 1 has to wait for orphans.
const enter = `set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
cd /mnt/root
mkdir -p source mnt
mount --bind "$2" source
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
cp "$3" test
pivot_root . mnt
umount -l /mnt
ip link set lo up
nix --version
cd "/source/$4"
/test -test.v -test.skip ByHand -test.timeout 10m
exit
`

var (
	passed  = regexp.MustCompile(`(?m)^--- PASS: `)
	skipped = regexp.MustCompile(`(?m)^ *--- SKIP: .*`)
)

// TestNix: the tests pass with each nix, and none is skipped.
func TestNix(t *testing.T) {
	source, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]string) // the program by the package's folder
	for _, folder := range []string{"internal/nix", "installer", "internal/cache"} {
		tests[folder] = filepath.Join(t.TempDir(), "test")
		compile := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests[folder], "./"+folder)
		compile.Dir = source
		compile.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in any root
		if out, err := compile.CombinedOutput(); err != nil {
			t.Fatalf("compile the tests of %s: %v: %s", folder, err, out)
		}
	}
	for suite, version := range map[lab.Suite]string{
		lab.Bookworm: "2.8.",
		lab.Trixie:   "2.26.",
		lab.Sid:      "", // another one now and then
	} {
		root, err := lab.Userland(t.Context(), lab.CacheDir(), suite, programs, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		for folder, program := range tests {
			t.Run(string(suite)+"/"+folder, func(t *testing.T) {
				t.Parallel()
				runtime.LockOSThread() // Pdeathsig watches the thread that started the shell
				defer runtime.UnlockOSThread()
				cmd := exec.CommandContext(t.Context(), "sh", "-c", enter, "sh", root, source, program, folder)
				cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
				cmd.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags:   syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, // the tests of the others have the same ports
					Unshareflags: syscall.CLONE_NEWNS,                         // which makes mounts private, too
					Pdeathsig:    syscall.SIGKILL,
				}
				data, err := cmd.CombinedOutput()
				out := string(data)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				said, _, _ := strings.Cut(out, "\n")
				if !strings.HasPrefix(said, "nix (Nix) "+version) {
					t.Errorf("it is %s, want %s", said, version)
				}
				if left := skipped.FindAllString(out, -1); len(left) > 0 {
					t.Errorf("were skipped:\n%s", strings.Join(left, "\n"))
				}
				count := len(passed.FindAllString(out, -1))
				if count == 0 {
					t.Errorf("no test ran:\n%s", out)
				}
				t.Logf("%s: %d tests passed", said, count)
			})
		}
	}
}
