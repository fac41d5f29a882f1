package images

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"provision/internal/initrd"
)

// firstProgram stands for our program.
var firstProgram = gzipped([]byte("\x7fELF program"))

// moduleTree is what an initrd may hold of kernel 6.6.1's modules.
func moduleTree(t *testing.T) map[string]string {
	t.Helper()
	const k = "nix/store/x-linux-modules-shrunk/lib/modules/6.6.1/"
	pack := func(command, s string) string { return string(packed(t, []byte(s), command)) }
	return map[string]string{
		k + "kernel/drivers/net/ethernet/broadcom/genet/genet.ko.xz": string(packed(t, []byte("genet"), "xz", "--check=crc32")),
		k + "kernel/drivers/net/mdio/mdio-bcm-unimac.ko.zst":         pack("zstd", "unimac"),
		k + "kernel/drivers/net/phy/libphy.ko.gz":                    string(gzipped([]byte("libphy"))),
		k + "kernel/drivers/net/phy/broadcom.ko":                     "broadcom phy",
		k + "kernel/drivers/net/ethernet/large.ko":                   "large " + noise(20000),
		k + "kernel/drivers/net/ethernet/small.ko":                   "small",
		k + "kernel/drivers/net/ethernet/halved.ko":                  "halved",
		k + "kernel/drivers/gpu/drm/gpu.ko":                          "gpu",
		k + "kernel/fs/ext4/ext4.ko":                                 "ext4",
		k + "modules.dep": "kernel/drivers/net/ethernet/broadcom/genet/genet.ko.xz: kernel/drivers/net/mdio/mdio-bcm-unimac.ko.zst kernel/drivers/net/phy/libphy.ko.gz\n" +
			"kernel/drivers/net/mdio/mdio-bcm-unimac.ko.zst: kernel/drivers/net/phy/libphy.ko.gz\nkernel/drivers/net/phy/libphy.ko.gz:\n" +
			"kernel/drivers/net/phy/broadcom.ko: kernel/drivers/net/phy/libphy.ko.gz\nkernel/drivers/net/ethernet/large.ko:\n" +
			"kernel/drivers/net/ethernet/small.ko:\nkernel/drivers/net/ethernet/halved.ko: kernel/lib/gone.ko\nkernel/drivers/gpu/drm/gpu.ko:\nkernel/fs/ext4/ext4.ko:\n",
		k + "modules.alias":   "# Aliases\nalias of:N*T*Cbrcm,bcm2711-genet-v5 genet\nalias pci:v* large\nalias fs-ext4 ext4\n",
		k + "modules.softdep": "softdep genet pre: broadcom\nsoftdep broadcom pre: genet post: nothing\n",
	}
}

// noise is text that cannot be compressed much.
func noise(n int) string {
	var b strings.Builder
	for x := uint32(1); b.Len() < n; x = x*1664525 + 1013904223 {
		fmt.Fprintf(&b, "%08x", x)
	}
	return b.String()
}

// bannerKernel is a kernel of that release, in which a banner says so.
func bannerKernel(release string) []byte {
	head := make([]byte, 4096)
	copy(head[0x38:], "ARM\x64")
	return append(head, "Linux version "+release+" (nixbld@localhost) (gcc)"...)
}

// addTree adds an image whose initrd holds the files.
func addTree(t *testing.T, c *Catalog, name string, kernel []byte, tree map[string]string) Image {
	t.Helper()
	var files []initrd.File
	for file, data := range tree {
		files = append(files, initrd.File{Path: file, Mode: 0o644, Data: []byte(data)})
	}
	dir := t.TempDir()
	img, err := c.Add(t.Context(), name, AArch64, Source{
		Kernel: write(t, filepath.Join(dir, "kernel"), string(kernel)), Initrd: write(t, filepath.Join(dir, "initrd"), string(gzipped(initrd.Overlay(files)))),
		Cmdline: "init=/nix/store/x/init rdinit=/first",
	}, nil)
	must(t, err)
	return img
}

// unpackFirst lists what is in a first stage.
func unpackFirst(t *testing.T, c *Catalog, f File) map[string]string {
	t.Helper()
	in, err := c.OpenFile(f)
	must(t, err)
	defer in.Close()
	got := map[string]string{}
	must(t, initrd.Walk(in, func(name string, h initrd.Header, content io.Reader) error {
		data, err := io.ReadAll(content)
		if !h.Type().IsDir() {
			got[name] = fmt.Sprintf("%o %s", h.Mode, data)
		}
		return err
	}))
	return got
}

func TestFirstStage(t *testing.T) {
	c, err := Open(t.TempDir())
	must(t, err)
	img := addTree(t, c, "pi", bannerKernel("6.6.1"), moduleTree(t))
	f, err := c.firstStage(t.Context(), img, firstProgram)
	must(t, err)
	got := unpackFirst(t, c, f)
	for name, want := range map[string]string{
		"init": "100755 \x7fELF program", "first": "120777 /init", "sbin/modprobe": "120777 /init",
		"modules/genet.ko": "100644 genet", "modules/mdio_bcm_unimac.ko": "100644 unimac", "modules/libphy.ko": "100644 libphy",
		"modules/broadcom.ko": "100644 broadcom phy", "modules/small.ko": "100644 small", "modules/large.ko": "100644 large " + noise(20000),
		"modules/alias": "100644 alias of:N*T*Cbrcm,bcm2711-genet-v5 genet\nalias pci:v* large\n",
	} {
		if got[name] != want {
			t.Errorf("%s is %.100q, want %.100q", name, got[name], want)
		}
		delete(got, name)
	}
	dep := got["modules/dep"]
	delete(got, "modules/dep")
	if len(got) > 0 {
		t.Errorf("there is more: %v", got)
	}
	for line := range strings.Lines(strings.TrimPrefix(dep, "100644 ")) {
		if name, needs, _ := strings.Cut(strings.TrimSpace(line), ":"); name == "genet" {
			if strings.Index(needs, "libphy") > strings.Index(needs, "mdio_bcm_unimac") || !strings.Contains(needs, "broadcom") {
				t.Errorf("genet needs %s", needs)
			}
		}
	}

	again, err := c.firstStage(t.Context(), img, firstProgram)
	if err != nil || again != f {
		t.Errorf("again: %v, %v", again, err)
	}
	other, err := Open(t.TempDir())
	must(t, err)
	if same, err := other.firstStage(t.Context(), addTree(t, other, "x", bannerKernel("6.6.1"), moduleTree(t)), firstProgram); err != nil || same != f {
		t.Errorf("in another catalog: %v, %v, want %v", same, err, f)
	}
}

// TestFirstStageSquashfs: a NixOS installer's initrd has few drivers itself, and all of them in its squashfs.
func TestFirstStageSquashfs(t *testing.T) {
	for _, compress := range []string{"zstd", "xz", "gzip"} {
		store, tree := t.TempDir(), map[string]string{"init": "x"}
		for name, data := range moduleTree(t) {
			write(t, filepath.Join(store, strings.Replace(strings.TrimPrefix(name, "nix/store/"), "-shrunk", "", 1)), data)
			if strings.HasSuffix(name, "modules.dep") { // of stage 1
				tree[name] = "kernel/fs/ext4/ext4.ko:\n"
			}
		}
		for i := range 300 {
			write(t, filepath.Join(store, fmt.Sprintf("%03d-other/lib/file", i)), "x")
		}
		must(t, os.Symlink("/nix/store/x-linux-modules/lib/modules/6.6.1/kernel", filepath.Join(store, "x-linux-modules/lib/modules/kernel")))
		out := filepath.Join(t.TempDir(), "squashfs")
		if text, err := exec.Command("mksquashfs", store, out, "-comp", compress, "-b", "1M", "-all-root", "-quiet", "-no-progress").CombinedOutput(); err != nil {
			t.Fatalf("mksquashfs: %v: %s", err, text)
		}
		data, err := os.ReadFile(out)
		must(t, err)
		tree["nix-store.squashfs"] = string(data)
		dir := t.TempDir()
		c, err := Open(dir)
		must(t, err)
		f, err := c.firstStage(t.Context(), addTree(t, c, "pi", bannerKernel("6.6.1"), tree), firstProgram)
		must(t, err)
		got := unpackFirst(t, c, f)
		if got["modules/genet.ko"] != "100644 genet" || got["modules/large.ko"] != "100644 large "+noise(20000) || got["modules/ext4.ko"] != "" {
			t.Errorf("%s: %.1000v", compress, got)
		}
		if left, err := filepath.Glob(filepath.Join(dir, tmpPrefix+"*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	c, err := Open(t.TempDir())
	must(t, err)
	_, err = c.firstStage(t.Context(), addTree(t, c, "pi", bannerKernel("6.6.1"), map[string]string{"nix-store.squashfs": "hsqs"}), firstProgram)
	checkErr(t, err, "the squashfs in its initrd:")
}

// TestFirstStageBounded: the largest drivers are left out, never the needed ones.
func TestFirstStageBounded(t *testing.T) {
	modules := map[string]kernelModule{"kernel/drivers/net/phy/p": {size: 100}, "kernel/drivers/net/ethernet/a": {size: 8},
		"kernel/drivers/net/ethernet/b": {size: 3}, "kernel/drivers/net/ethernet/c": {size: 4}, "lib": {size: 2}}
	x := moduleIndex{needs: map[string][]string{"kernel/drivers/net/phy/p": nil, "kernel/drivers/net/ethernet/a": nil,
		"kernel/drivers/net/ethernet/b": {"lib"}, "kernel/drivers/net/ethernet/c": {"lib"}, "kernel/drivers/net/ethernet/gone": nil}}
	needed, useful := x.wanted()
	var got []string
	for name := range x.bounded(modules, needed, useful, 109) {
		got = append(got, name[strings.LastIndex(name, "/")+1:])
	}
	if len(got) != 4 || strings.Contains(strings.Join(got, ""), "a") { // p, b, lib, c
		t.Errorf("packed %v", got)
	}
}

func TestFirstStageRefused(t *testing.T) {
	with := func(change func(map[string]string)) map[string]string {
		tree := moduleTree(t)
		change(tree)
		return tree
	}
	only := func(keep ...string) func(map[string]string) {
		return func(tree map[string]string) {
			for name := range tree {
				kept := false
				for _, k := range keep {
					kept = kept || strings.HasSuffix(name, k)
				}
				if !kept {
					delete(tree, name)
				}
			}
		}
	}
	const k = "lib/modules/6.6.1/"
	for _, test := range []struct {
		name   string
		kernel []byte
		tree   map[string]string
		err    string
	}{
		{"other kernel", bannerKernel("6.6.2"), moduleTree(t), "its kernel is 6.6.2, and its initrd holds modules for 6.6.1"},
		{"no modules", bannerKernel("6.6.1"), map[string]string{"init": "x"}, "its initrd holds no modules (lib/modules/6.6.1/modules.dep)"},
		{"no drivers", bannerKernel("6.6.1"), map[string]string{k + "modules.dep": "kernel/fs/ext4/ext4.ko:\n"}, "no driver for a network card, of kernel 6.6.1"},
		{"built in", bannerKernel("6.6.1"), map[string]string{k + "modules.builtin": "kernel/drivers/net/virtio_net.ko\n"}, ""},
		{"a kernel that says nothing", bannerKernel("")[:4096], moduleTree(t), "does not say its version"},
		{"damaged module", bannerKernel("6.6.1"), with(func(tree map[string]string) {
			for name := range tree {
				if strings.HasSuffix(name, "genet.ko.xz") {
					tree[name] = tree[name][:20]
				}
			}
		}), "genet.ko.xz"},
		{"index without modules", bannerKernel("6.6.1"), with(only("modules.dep")), "network card"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Open(t.TempDir())
			must(t, err)
			_, err = c.firstStage(t.Context(), addTree(t, c, "x", test.kernel, test.tree), firstProgram)
			checkErr(t, err, test.err)
		})
	}
}

// TestFirstStageKept: a first stage lives as long as its image, and as the program.
func TestFirstStageKept(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(dir)
	must(t, err)
	img := addTree(t, c, "pi", bannerKernel("6.6.1"), moduleTree(t))
	if _, err := firstStageProgram(AArch64); err != nil { // in a clean clone
		_, err = c.FirstStage(t.Context(), img)
		checkErr(t, err, "make the first stage of image pi: this provision was built without its first stage: run make build")
	}
	c.program = func(Arch) ([]byte, error) { return firstProgram, nil }
	old, err := c.FirstStage(t.Context(), img)
	must(t, err)
	program := gzipped([]byte("another program"))
	c.program = func(Arch) ([]byte, error) { return program, nil }
	kept, err := c.FirstStage(t.Context(), img)
	must(t, err)
	must(t, c.sweep(true))
	_, err = os.Stat(filepath.Join(dir, old.SHA256))
	checkErr(t, err, "no such file")
	records, err := filepath.Glob(filepath.Join(dir, "*"+firstExt))
	must(t, err)
	if want := filepath.Join(dir, firstStageRecord(img, program)); len(records) != 1 || records[0] != want {
		t.Errorf("records %v, want %s", records, want)
	}
	if in, err := c.OpenFile(kept); err != nil {
		t.Error(err)
	} else {
		in.Close()
	}
	// Content that was damaged or lost is made anew.
	must(t, os.Truncate(filepath.Join(dir, kept.SHA256), 5))
	if f, err := c.FirstStage(t.Context(), img); err != nil || f != kept {
		t.Errorf("anew: %v, %v", f, err)
	}
	must(t, c.verify(t.Context(), kept))
	must(t, c.Remove("pi", nil))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestReleaseOf(t *testing.T) {
	bz := make([]byte, 4096)
	copy(bz[0x202:], "HdrS")
	bz[0x20e], bz[0x20f] = 0, 4
	copy(bz[0x600:], "6.1.0-50-amd64 (debian-kernel@lists.debian.org) #1\x00")
	zboot := append([]byte("MZ\x00\x00zimg\x40\x00\x00\x00"), make([]byte, 0x40-12)...)
	payload := gzipped(bannerKernel("6.12.3"))
	zboot[12], zboot[13] = byte(len(payload)), byte(len(payload)>>8)
	zboot = append(zboot, payload...)
	for _, test := range []struct {
		name, want, err string
		kernel          []byte
	}{
		{"bzImage", "6.1.0-50-amd64", "", bz},
		{"Image", "6.6.1-v8+", "", bannerKernel("6.6.1-v8+")},
		{"Image.gz", "6.6.1", "", gzipped(bannerKernel("6.6.1"))},
		{"EFI zboot", "6.12.3", "", zboot},
		{"EFI zboot cut short", "", "cut short", zboot[:len(zboot)-10]},
		{"nothing", "", "does not say", nil},
		{"bzImage without", "", "does not say", append(make([]byte, 0x202), "HdrS__________________________________________________________"...)},
	} {
		got, err := releaseOf(test.kernel)
		checkErr(t, err, test.err)
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestFirstStageCmdline(t *testing.T) {
	img := Image{Initrd: File{SHA256: strings.Repeat("ab", 32), Size: 800 << 20}}
	sum, err := hex.DecodeString(img.Initrd.SHA256)
	must(t, err)
	tail := sha256.Sum256([]byte("tail"))
	url := "http://255.255.255.255:65535/boot/" + strings.Repeat("f", 32) + "/initrd"
	got := FirstStageCmdline(url, img, []byte("tail"))
	want := "provision.initrd=" + url + " provision.sha256=838860800:" + base64.RawURLEncoding.EncodeToString(sum) +
		",4:" + base64.RawURLEncoding.EncodeToString(tail[:])
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if most := 2048 - maxCmdline; len(got) > most {
		t.Errorf("it has %d bytes, and %d are left beside the longest command line of an image", len(got), most)
	}
	if got := FirstStageCmdline("http://10.0.0.1/a b\"c'$d`e|f", img, nil); strings.ContainsAny(got, "\"'$`|") || strings.Count(got, " ") != 1 {
		t.Errorf("not quoted: %s", got)
	}
	if words := splitArgs(got); len(words) != 2 {
		t.Errorf("words %q", words)
	}
}
