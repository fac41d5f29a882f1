package images

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const script = "#!ipxe\nkernel %s init=/nix/store/i-nixos-system-nixos/init initrd=%s nohibernate ${cmdline}\ninitrd %s\nboot\n"

func TestFromDir(t *testing.T) {
	const params = "init=/nix/store/i-nixos-system-nixos/init"
	for _, test := range []struct {
		name   string
		files  string
		arch   Arch
		kernel string // or the error
	}{
		{"release", "bzImage-x86_64-linux initrd-x86_64-linux netboot-x86_64-linux.ipxe", "", "bzImage-x86_64-linux"},
		{"release, short names", "bzImage-x86_64 initrd-x86_64 netboot-x86_64.ipxe", X86_64, "bzImage-x86_64"},
		{"release for arm", "Image-aarch64-linux initrd-aarch64-linux netboot-aarch64-linux.ipxe", "", "Image-aarch64-linux"},
		{"build", "bzImage initrd netboot.ipxe", X86_64, "bzImage"},
		{"build for arm", "Image initrd netboot.ipxe", AArch64, "Image"},
		{"kexec", "kexec/bzImage kexec/initrd kexec/run", AArch64, "kexec/bzImage"},
		{"kexec, inside", "bzImage initrd run", "", "bzImage"},
		{"two, one wanted", "bzImage-x86_64-linux initrd-x86_64-linux netboot-x86_64-linux.ipxe Image-aarch64-linux initrd-aarch64-linux netboot-aarch64-linux.ipxe", AArch64, "Image-aarch64-linux"},
		{"two", "bzImage-x86_64-linux initrd-x86_64-linux netboot-x86_64-linux.ipxe Image-aarch64-linux initrd-aarch64-linux netboot-aarch64-linux.ipxe", "", "!say which with --arch"},
		{"other architecture", "Image-aarch64-linux initrd-aarch64-linux netboot-aarch64-linux.ipxe", X86_64, "!no image in"},
		{"no initrd", "bzImage-x86_64 initrd netboot.ipxe", "", "!initrd-x86_64 is not"},
		{"no command line", "bzImage initrd netboot-x86_64.ipxe", "", "!netboot.ipxe is missing"},
		{"nothing", "README", "", "!no image in"},
		{"broken script", "bzImage initrd run=exit", "", "!/run: it calls kexec without"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for f := range strings.FieldsSeq(test.files) {
				name, content, _ := strings.Cut(f, "=")
				switch filepath.Base(name) {
				case "run":
					if content == "" {
						content = kexecRun
					}
				default:
					if strings.HasSuffix(name, ".ipxe") {
						content = script
					}
				}
				write(t, filepath.Join(dir, name), content)
			}
			src, err := FromDir(dir, test.arch)
			if want, fails := strings.CutPrefix(test.kernel, "!"); fails {
				checkErr(t, err, want)
				return
			}
			must(t, err)
			if src.Kernel != filepath.Join(dir, test.kernel) || !strings.HasPrefix(src.Cmdline, params) {
				t.Errorf("got %+v", src)
			}
		})
	}
}

// kexecTarball makes the tarball of nixos-images with tar and its option to compress.
func kexecTarball(t *testing.T, compress string, src Source) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{src.Kernel: "bzImage", src.Initrd: "initrd"} {
		data, err := os.ReadFile(from)
		must(t, err)
		write(t, filepath.Join(dir, "kexec", to), string(data))
	}
	write(t, filepath.Join(dir, "kexec", "run"), kexecRun)
	write(t, filepath.Join(dir, "kexec", "kexec"), strings.Repeat("program", 1000))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "kexec", "ip")))
	file := filepath.Join(dir, "nixos-kexec-installer-x86_64-linux.tar")
	if out, err := exec.Command("tar", "-C", dir, "--"+compress, "-cf", file, "kexec").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return file
}

func TestFromTarball(t *testing.T) {
	src := files(t, "one")
	for _, compress := range []string{"no-auto-compress", "gzip", "xz", "zstd"} {
		t.Run(compress, func(t *testing.T) {
			c := open(t, t.TempDir())
			var last, total int64
			img, err := c.From(t.Context(), Request{Name: "kexec", From: kexecTarball(t, compress, src)}, func(p Progress) { last, total = p.Done, p.Total })
			must(t, err)
			if want := add(t, c, "files", src); img.Kernel != want.Kernel || img.Initrd != want.Initrd || img.Arch != X86_64 ||
				img.Cmdline != "init=/nix/store/i-nixos-system-nixos/init console=tty0 console=ttyS0,115200 nohibernate loglevel=4" {
				t.Errorf("got %+v, want the files of %+v", img, want)
			}
			if last != total || strings.Contains(content(t, c), tmpPrefix) {
				t.Errorf("progress ended at %d of %d; in the folder:\n%s", last, total, content(t, c))
			}
		})
	}
}

func TestFromRefuses(t *testing.T) {
	src := files(t, "one")
	good, err := os.ReadFile(kexecTarball(t, "gzip", src))
	must(t, err)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 1 // in gzip's checksum
	archive := func(headers ...tar.Header) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			must(t, w.WriteHeader(&h))
			w.Write(make([]byte, h.Size))
		}
		w.Flush()
		return b.String()
	}
	dir := t.TempDir()
	for _, test := range []struct{ content, err string }{
		{string(good[:len(good)/2]), "downloaded in full"},
		{string(good[:len(good)-9]), "EOF"},
		{string(flipped), "checksum"},
		{"hello", "is it a kexec tarball"},
		{"", "is empty"},
		{archive(tar.Header{Name: "kexec/run", Size: 1<<20 + 1}), "kexec/run is not a file of at most"},
		{archive(tar.Header{Name: "kexec/initrd", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), "kexec/initrd is not a file"},
		{archive(tar.Header{Name: "./kexec/run"}, tar.Header{Name: "kexec/run"}), "holds run twice"},
		{archive(tar.Header{Name: "../../evil"}, tar.Header{Name: "/kexec/bzImage"}, tar.Header{Name: "kexec/../../run"}), "no image in"},
	} {
		state := t.TempDir()
		c := open(t, filepath.Join(state, "a", "images"))
		_, err := c.From(t.Context(), Request{Name: "a", From: write(t, filepath.Join(dir, "tarball"), test.content)}, nil)
		checkErr(t, err, test.err)
		checkErr(t, err, "add image a: ")
		if left := content(t, c); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
		if up, err := os.ReadDir(state); err != nil || len(up) != 1 {
			t.Errorf("outside: %v, %v", up, err)
		}
	}
	c := open(t, t.TempDir())
	for from, want := range map[string]string{
		"ftp://example.org/nixos.tar.gz": "give a URL with https",
		dir + "/none":                    "no such file",
		dir:                              "no image in",
	} {
		_, err := c.From(t.Context(), Request{Name: "a", From: from}, nil)
		checkErr(t, err, want)
	}
	_, err = c.From(t.Context(), Request{Name: "A", From: dir}, nil)
	checkErr(t, err, "image name")
}
