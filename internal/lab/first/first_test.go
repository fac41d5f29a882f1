package first

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"provision/internal/initrd"
	"provision/internal/lab"
)

// TestFaults boots one machine through everything that can go wrong on the way to its image, and sees each said on the
// console; at the end the image is up.
func TestFaults(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, 1, lab.X86_64)
	// A second card gets an address, from where the server is not to be reached.
	other, err := lab.NewLAN(ctx, "other", netip.MustParsePrefix("10.78.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, other.Close()) })
	// Linux answers for all of its addresses on each of its cards, if it is not told otherwise.
	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/other/arp_ignore", []byte("1"), 0))
	check(t, other.Tap(ctx, "tap-other"))
	w.router(t, other, "10.78.0.", "--dhcp-option=3")
	w.vm.Args = append(w.vm.Args, "-netdev", "tap,id=other,script=no,downscript=no,ifname=tap-other",
		"-device", "e1000,netdev=other,mac=52:54:00:12:34:57,romfile=")
	check(t, w.vm.Start(ctx))
	w.sees(t, "SeaBIOS") // QEMU is up
	w.cable(t, "off")

	w.sees(t, "eth0: no link: is its cable in?")
	w.sees(t, "address 10.78.0.")
	w.sees(t, "cannot connect to "+w.server+" through eth1: no answer in time")
	w.cable(t, "on")
	w.sees(t, "no DHCP answer")
	router := w.router(t, w.lan, w.net)
	w.sees(t, "address "+w.net)
	w.sees(t, "connection refused: is provision running?")

	const megabyte = 1 << 20
	s := newFaulty(t, w, fault{status: 503}, fault{status: -1}, fault{status: 404},
		fault{cut: 10 * megabyte}, fault{cut: 5 * megabyte, kill: true}, fault{flip: true}, fault{})
	s.start(t)
	w.sees(t, `answered "503 Service Unavailable"`)
	w.sees(t, "closed the connection without an answer")
	w.sees(t, `answered "404 Not Found": this boot is over`)
	w.sees(t, "downloading the image:")
	w.sees(t, "the download broke off at 10.5 MB: the connection was closed")
	<-s.killed
	w.sees(t, "the download broke off at 15.7 MB")
	w.sees(t, "connection refused")
	s.start(t)
	w.sees(t, "was thrown away: the sha256 of this boot's part is")
	w.sees(t, "the image is here and is the right one")
	shell := w.up(t, router)

	// The image has what the kernel gave it, and nothing of ours.
	out, err := shell.Run(ctx, "ls -d /init /modules /newroot /sbin/modprobe 2>&1; grep -c '^tmpfs / ' /proc/mounts; dmesg | grep -c 'provision: starting the image'")
	if want := "1\n1"; !strings.HasSuffix(out, want) || err != nil || strings.Contains(out, "\n/modules") || strings.Contains(out, "\n/newroot") {
		t.Errorf("on the image: %s, %v", out, err)
	}
	if got, want := strings.Join(s.ranges(), ","), ",,,,bytes=10485760-,bytes=15728640-,"; got != want {
		t.Errorf("the ranges asked for were %q, want %q", got, want)
	}
}

// TestMemory: a machine that is too small says what it has and what it needs, and goes on trying.
func TestMemory(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, 2, lab.X86_64)
	w.vm.MemMB = 320
	w.router(t, w.lan, w.net)
	newFaulty(t, w).start(t)
	check(t, w.vm.Start(ctx))
	w.sees(t, "not enough memory: the image needs about")
	w.sees(t, "Trying again in 5 s")
	w.sees(t, "not enough memory: the image needs about")
}

// switchScript is a stage 1 that goes on to its next root by util-linux's switch_root, as NixOS's scripted stage 1
// does, and from there by busybox's, which is stricter.
const switchScript = `#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
busybox grep -q '^tmpfs / tmpfs' /proc/mounts && [ "$(busybox grep -c . /proc/mounts)" = 4 ] || busybox cat /proc/mounts
[ -c /dev/console ] || echo "no console"
for root in /one /one/two; do
	busybox mkdir -p $root
	busybox mount -t tmpfs tmpfs $root
	busybox mkdir -p $root/dev $root/proc $root/sys $root/run $root/usr/lib $root/bin $root/sbin
	busybox cp -a /usr/lib/x86_64-linux-gnu $root/usr/lib/
	busybox cp -a /usr/lib64 $root/usr/
	busybox cp -a /lib /lib64 $root/
	busybox cp /bin/busybox $root/bin/
done
busybox mkdir /one/two/three
cat >/one/init <<'END'
#!/bin/busybox sh
echo "switched by util-linux: $*, process $$"
busybox mkdir -p /two/dev
exec busybox switch_root -c /dev/console /two /bin/busybox sh -c 'echo "switched by busybox, process $$: $(busybox ls /)"; busybox sleep 600'
END
busybox chmod 755 /one/init
exec switch_root /one /init an argument
`

// TestSwitchRoot: from where the first stage leaves it, an image's stage 1 can go on to its next root.
func TestSwitchRoot(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, 3, lab.X86_64, initrd.File{Path: "init", Mode: 0o755, Data: []byte(switchScript)})
	w.router(t, w.lan, w.net)
	newFaulty(t, w).start(t)
	check(t, w.vm.Start(ctx))
	w.sees(t, "switched by util-linux: an argument, process 1")
	w.sees(t, "switched by busybox, process 1")
}

// TestArm64 boots an arm64 machine by its first stage.
func TestArm64(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, 4, lab.AArch64)
	router := w.router(t, w.lan, w.net)
	newFaulty(t, w).start(t)
	check(t, w.vm.Start(ctx))
	w.sees(t, "the image is here and is the right one")
	w.up(t, router)
}
