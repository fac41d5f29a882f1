package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"
)

func TestKeepBuildsOnce(t *testing.T) {
	cache := t.TempDir()
	var mu sync.Mutex
	builds := 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			dir, err := keep(t.Context(), cache, "thing", func(dir string) error {
				mu.Lock()
				defer mu.Unlock()
				builds++
				return os.WriteFile(filepath.Join(dir, "file"), nil, 0o644)
			})
			if _, stat := os.Stat(filepath.Join(dir, "file")); err != nil || stat != nil {
				t.Error(err, stat)
			}
		})
	}
	wg.Wait()
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
}

func TestKeepLeavesNothingUnfinished(t *testing.T) {
	cache := t.TempDir()
	broken := errors.New("broken")
	if _, err := keep(t.Context(), cache, "thing", func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	unlock, err := lock(t.Context(), filepath.Join(cache, "thing.lock"))
	check(t, err)
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := keep(ctx, cache, "thing", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with another builder at work, and cancelled: got %v", err)
	}
}

func TestAcyclic(t *testing.T) {
	all := []deb{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	needs := map[string][]string{"a": {"b", "virtual", "absent"}, "b": {"a"}, "c": {"a"}}
	acyclic(all, needs, map[string]string{"a": "a", "b": "b", "c": "c", "virtual": "c"})
	// a and b need each other, and so do a and c: only the first found of each pair stays.
	for i, want := range [][]string{{"b", "c"}, nil, nil} {
		if !slices.Equal(all[i].Depends, want) {
			t.Errorf("%s depends on %v, want %v", all[i].Name, all[i].Depends, want)
		}
	}
	got := relations("libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any")
	if len(got) != 3 || !slices.Equal(got[1], []string{"debconf", "debconf-2.0"}) || got[2][0] != "python3" {
		t.Errorf("relations: %v", got)
	}
}

func TestGuestsOfEachSuite(t *testing.T) {
	for _, tt := range []struct {
		suite Suite
		arch  Arch
		name  string
		want  bool
	}{
		{Bookworm, X86_64, "libtss2-mu0", true},
		{Bookworm, X86_64, "libtss2-mu-4.0.1-0t64", false},
		{Trixie, X86_64, "libtss2-mu0", false},
		{Trixie, X86_64, "libtss2-mu-4.0.1-0t64", true},
		{Trixie, AArch64, "libtss2-mu-4.0.1-0t64", false},
		{Bookworm, AArch64, "linux-image-arm64", true},
		{Sid, AArch64, "bash", true},
	} {
		list, err := lines("packages", tt.suite, tt.arch)
		check(t, err)
		if slices.Contains(list, tt.name) != tt.want {
			t.Errorf("%s of %s for %s: listed %v, want %v", tt.name, tt.suite, tt.arch, !tt.want, tt.want)
		}
	}
	for name, want := range map[string]bool{"gcc-14-base": true, "gcc-14-base-doc": false, "perl": true} {
		got, err := matches([]string{"gcc-*-base", "perl"}, name)
		check(t, err)
		if got != want {
			t.Errorf("%s is left out: %v", name, got)
		}
	}
	for set, want := range map[string]Suite{"": Trixie, "bookworm": Bookworm, "sid": Sid, "buster": ""} {
		t.Setenv("SUITE", set)
		if got, err := CurrentSuite(); got != want || (err == nil) != (want != "") {
			t.Errorf("with SUITE=%q guests are made of %q (%v)", set, got, err)
		}
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := &archive{w: &b}
	check(t, a.folder("ssh"))
	check(t, a.file("ssh/key", 0o600, []byte("12345")))
	check(t, a.close())
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes", b.Len())
	}
	want := "070701" + "00000001" + "000041ED" + "00000000" + "00000000" + "00000001" + "00000001" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "ssh\x00\x00\x00"
	if got := b.String()[:len(want)]; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if !strings.Contains(b.String(), "ssh/key\x00\x00\x0012345\x00\x00\x00070701") {
		t.Errorf("padding of the file: %q", b.String())
	}
}

func TestNetworkFirst(t *testing.T) {
	var store []byte
	set := func(name string, state byte, value []byte) {
		header := make([]byte, 60)
		binary.LittleEndian.PutUint16(header, 0x55aa)
		header[2] = state
		binary.LittleEndian.PutUint32(header[36:], uint32(2*len(name)+2))
		binary.LittleEndian.PutUint32(header[40:], uint32(len(value)))
		store = append(store, header...)
		for _, unit := range utf16.Encode([]rune(name + "\x00")) {
			store = binary.LittleEndian.AppendUint16(store, unit)
		}
		store = append(store, value...)
	}
	option := func(text string) []byte {
		out := make([]byte, 6)
		for _, unit := range utf16.Encode([]rune(text + "\x00")) {
			out = binary.LittleEndian.AppendUint16(out, unit)
		}
		return out
	}
	set("BootOrder", 0x3c, []byte{0, 0, 1, 0}) // deleted
	set("BootOrder", 0x3f, []byte{0, 0, 1, 0, 2, 0, 3, 0, 4, 0})
	for i, text := range []string{"UiApp", "UEFI Misc Device", "UEFI PXEv4 (MAC:1)", "UEFI HTTPv4 (MAC:1)", "UEFI Misc Device 2"} {
		set("Boot000"+string(rune('0'+i)), 0x3f, option(text))
	}
	for wanted, want := range map[string][]byte{
		"UEFI PXEv4":  {2, 0, 1, 0, 4, 0, 0, 0, 3, 0},
		"UEFI HTTPv4": {3, 0, 1, 0, 4, 0, 0, 0, 2, 0},
	} {
		check(t, networkFirst(store, wanted))
		order, err := variable(store, "BootOrder")
		check(t, err)
		if !bytes.Equal(order, want) {
			t.Errorf("with %s first, the boot order is % x, want % x", wanted, order, want)
		}
	}
}

func TestConsole(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var keys, log bytes.Buffer
	c := newConsole(&keys)
	check(t, c.feed(strings.NewReader("a: b: a: end"), &log))
	for _, step := range []struct{ texts, want string }{{"b:|a:", "a:"}, {"a:", "a:"}, {"end", "end"}} {
		if got, err := c.Expect(ctx, strings.Split(step.texts, "|")...); err != nil || got != step.want {
			t.Errorf("expect %s: got %q, %v", step.texts, got, err)
		}
	}
	if _, err := c.Expect(ctx, "end"); err == nil {
		t.Error("the same text was found twice")
	}
	if timed, text := c.Timed(), c.Text(); len(timed) != len("15:04:05 ")+len(text) || !strings.HasSuffix(timed, " "+text) {
		t.Errorf("with times it is %q", timed)
	}
	check(t, c.Type("x\n"))
	if keys.String() != "x\n" || log.String() != c.Text() {
		t.Errorf("typed %q, recorded %q", keys.String(), log.String())
	}
}

// TestClientIsOnTheLAN lets a client get a lease from the router, with busybox's DHCP client from the image's packages.
func TestClientIsOnTheLAN(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := newBed(t)
	base, err := makeBase(ctx, CacheDir(), X86_64, os.Stderr)
	check(t, err)
	client, err := b.lan.Client(ctx, "probe", "52:54:00:00:00:99", netip.Prefix{})
	check(t, err)
	defer func() { check(t, client.Close()) }()
	_, err = client.Run(ctx, base.root()+"/bin/busybox", "udhcpc", "-f", "-q", "-n", "-i", client.Interface, "-s", "/bin/true")
	check(t, err)
	address, err := b.router.Lease(ctx, client.MAC)
	check(t, err)
	if leases, err := b.router.Leases(); err != nil || !strings.Contains(leases, address.String()) {
		t.Errorf("lease file without %s: %q, %v", address, leases, err)
	}
}
