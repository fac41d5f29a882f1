package images

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// flake is one that needs no nixpkgs: as nixos-images' netboot output, as its
// kexec tarball, and as a nixosConfiguration with nixpkgs' netboot module.
const flake = `{
  outputs = { self }:
    let
      run = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "export PATH=/bin:/usr/bin; set -e; ${script}" ];
      };
      toplevel = run "nixos-system-nixos-installer" "mkdir $out; echo ${ramdisk} >$out/init; printf 'console=ttyS0 loglevel=4' >$out/kernel-params; echo own >$out/initrd";
      kernel = run "linux" "mkdir $out; cp ${./bzImage} $out/bzImage";
      ramdisk = run "initrd" "mkdir $out; cp ${./initrd} $out/initrd";
    in {
      packages.x86_64-linux = {
        netboot = run "netboot" "mkdir $out; ln -s ${kernel}/bzImage ${ramdisk}/initrd ${toplevel}/kernel-params ${toplevel}/init $out/";
        kexec = run "kexec-tarball" "mkdir -p $out kexec; cp ${./bzImage} kexec/bzImage; cp ${./initrd} kexec/initrd; cp ${./run} kexec/run; tar -czf $out/nixos-kexec-installer-x86_64-linux.tar.gz kexec";
        broken = run "broken" "echo the owner broke this >&2; exit 1";
        empty = run "empty" "mkdir $out";
      };
      nixosConfigurations.installer.config.system.build = { inherit toplevel kernel; netbootRamdisk = ramdisk; };
      nixosConfigurations.host.config.system.build = { inherit toplevel kernel; netbootRamdisk = toplevel; };
    };
}
`

func TestFromFlake(t *testing.T) {
	t.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nbuild-users-group =")
	t.Setenv("HOME", t.TempDir())
	src := files(t, "one")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "flake.nix"), flake)
	write(t, filepath.Join(dir, "run"), kexecRun)
	for from, to := range map[string]string{src.Kernel: "bzImage", src.Initrd: "initrd"} {
		data, err := os.ReadFile(from)
		must(t, err)
		write(t, filepath.Join(dir, to), string(data))
	}
	c := open(t, filepath.Join(t.TempDir(), "images"))
	want := add(t, c, "files", src)
	for ref, cmdline := range map[string]string{
		"path:" + dir + "#netboot":                         "-nixos-system-nixos-installer/init console=ttyS0 loglevel=4",
		dir + "#nixosConfigurations.installer":             "-nixos-system-nixos-installer/init console=ttyS0 loglevel=4",
		"path:" + dir + `#nixosConfigurations."installer"`: "-nixos-system-nixos-installer/init console=ttyS0 loglevel=4",
		"path:" + dir + "#packages.x86_64-linux.kexec":     "init=/nix/store/i-nixos-system-nixos/init",
	} {
		var seen []string
		img, err := c.From(t.Context(), Request{Name: "flake", From: ref}, func(p Progress) { seen = append(seen, p.Doing) })
		must(t, err)
		if img.Kernel != want.Kernel || img.Initrd != want.Initrd || img.From != ref || !reflect.DeepEqual(img.Look, want.Look) ||
			!strings.HasPrefix(img.Cmdline, "init=/nix/store/") || !strings.Contains(img.Cmdline, cmdline) || seen[0] != "building "+ref {
			t.Errorf("%s: got %+v, %q", ref, img, seen)
		}
	}
	for ref, want := range map[string]string{
		"path:" + dir + "#broken":                   "the owner broke this",
		"path:" + dir + "#empty":                    "no image in /nix/store/",
		"path:" + dir + "#nosuch":                   "nosuch",
		"path:" + dir + "#nixosConfigurations.host": "imports no installer/netboot module",
		"path:/nowhere":                             "nowhere",
		"-x#y":                                      "no flake reference",
	} {
		_, err := c.From(t.Context(), Request{Name: "bad", From: ref}, nil)
		checkErr(t, err, want)
	}
	_, err := c.From(t.Context(), Request{Name: "bad", From: "path:" + dir + "#netboot", SHA256: map[string]string{"initrd": sum("")}}, nil)
	checkErr(t, err, "flake.lock")
	t.Setenv("PATH", t.TempDir())
	_, err = c.From(t.Context(), Request{Name: "bad", From: "path:" + dir + "#netboot"}, nil)
	checkErr(t, err, "nix is not installed")
	if left := content(t, c); strings.Contains(left, tmpPrefix) || strings.Contains(left, "bad") {
		t.Errorf("left behind:\n%s", left)
	}
}
