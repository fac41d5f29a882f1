package images

import (
	"slices"
	"strings"
	"testing"
)

func TestParseKernelParams(t *testing.T) {
	good := []string{"console=ttyS0,115200", "console=tty0", "nomodeset", "systemd.log_level=debug", "ip=:::::eth0:dhcp", "mitigations=off",
		"initcall_debug", "rootwait", "video=HDMI-A-1:1280x720@60", "earlycon=pl011,0xfe201000"}
	if got, err := ParseKernelParams(good); err != nil || !slices.Equal(got, good) {
		t.Errorf("%q, %v", got, err)
	}
	for _, none := range [][]string{nil, {}, {""}} {
		if got, err := ParseKernelParams(none); err != nil || len(got) > 0 {
			t.Errorf("%q: %q, %v", none, got, err)
		}
	}
	bad := map[string]string{
		"init=/bin/sh": "belongs to the image", "rdinit=/x": "belongs to the image", "initrd=x": "the server gives it", "INITRD=x": "the server gives it",
		"root=/dev/sda1": "in its initrd", "BOOTIF=01-52": "the server gives it", "provision.initrd=http://10.0.0.1/": "server's own",
		"provision.sha256=1:x": "server's own", "Provision.x": "server's own",
		"a b": "one word", "a\nb": "one word", "a\tb": "one word", `a="b"`: "one word", "a='b": "one word", "a\x00": "one word", "a=ü": "one word",
		"a=${net0/ip}": "one word", `a\`: "one word", "||": "one word", "a;b": "one word", "a&&b": "one word", "a`b`": "one word",
		"=x": "NAME=VALUE", "--": "init's", "-": "init's",
		strings.Repeat("a", 513): "at most 512",
	}
	for p, want := range bad {
		if _, err := ParseKernelParams([]string{"quiet", p}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", p, err, want)
		}
	}
	if _, err := ParseKernelParams([]string{"quiet", ""}); err == nil {
		t.Error("an empty one among others was taken")
	}
}

// TestBootCmdline: the operator's parameters come behind the image's, where the kernel lets them win.
func TestBootCmdline(t *testing.T) {
	img := Image{Name: "lab", Cmdline: "init=/x console=tty0", KernelParams: []string{"nomodeset"}}
	if got := img.BootCmdline([]string{"console=ttyS0,115200", "quiet"}); got != "init=/x console=tty0 nomodeset console=ttyS0,115200 quiet" {
		t.Error(got)
	}
	if got := img.BootCmdline(nil); got != "init=/x console=tty0 nomodeset" {
		t.Error(got)
	}
	img.Cmdline = strings.Repeat("x", maxCmdline-len(" nomodeset quiet"))
	if err := img.Fits([]string{"quiet"}); err != nil {
		t.Error(err)
	}
	if err := img.Fits([]string{"quiets"}); err == nil || !strings.Contains(err.Error(), "image lab") {
		t.Errorf("too long a command line: %v", err)
	}
}
