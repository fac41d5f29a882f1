package images

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNix: the installer's flake and module parse; nixpkgs, which they need, is
// not here. What stage 1 runs is taken out of the module, and run.
func TestNix(t *testing.T) {
	for _, file := range []string{"nix/flake.nix", "nix/netboot-installer.nix"} {
		if out, err := exec.Command("nix-instantiate", "--parse", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
	eval := func(what string, to any) {
		t.Helper()
		stub := `let lib = { mkForce = x: x; optional = c: x: if c then [ x ] else [ ]; optionals = c: l: if c then l else [ ]; };
			module = arm: import ./nix/netboot-installer.nix { inherit lib; config = { }; modulesPath = "/nixpkgs/nixos/modules";
				pkgs.stdenv.hostPlatform = { isx86_64 = !arm; isAarch64 = arm; }; };
			in ` + what
		cmd := exec.Command("nix-instantiate", "--eval", "--strict", "--json", "--expr", stub)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		must(t, err)
		must(t, json.Unmarshal(out, to))
	}
	for arch, arm := range map[Arch]string{X86_64: "false", AArch64: "true"} {
		var modules []string
		eval("(module "+arm+").boot.initrd.availableKernelModules", &modules)
		for _, want := range NetworkDrivers(arch) {
			if !strings.Contains(" "+strings.Join(modules, " ")+" ", " "+want+" ") {
				t.Errorf("%s: no %s in %s", arch, want, modules)
			}
		}
	}
	var unit struct {
		Script   string
		WantedBy []string
	}
	eval(`(module false).boot.initrd.systemd.services.restore-state-from-initrd`, &unit)
	if !takesKeys.MatchString(unit.Script) || len(unit.WantedBy) != 1 {
		t.Errorf("it would not be recognised: %+v", unit)
	}
	dir := t.TempDir()
	for name, data := range map[string]string{"ssh/authorized_keys": "login", "ssh/ssh_host_ed25519_key": "secret", "ssh/ssh_host_ed25519_key.pub": "public",
		"machine-id": "m", "provision.json": "{}", "sysroot/etc/x": ""} {
		write(t, filepath.Join(dir, name), data)
	}
	script := strings.NewReplacer("cd /\n", "cd "+dir+"\n", "/sysroot", dir+"/sysroot").Replace(unit.Script)
	if out, err := exec.Command("bash", "-e", "-c", script).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"root/.ssh/authorized_keys": "-rw------- login", "etc/ssh/ssh_host_ed25519_key": "-rw------- secret",
		"etc/ssh/ssh_host_ed25519_key.pub": "-rw-r--r-- public", "etc/machine-id": "-r--r--r-- m", "root/network/provision.json": "-rw-r--r-- {}"} {
		file := filepath.Join(dir, "sysroot", name)
		info, err := os.Stat(file)
		must(t, err)
		data, err := os.ReadFile(file)
		must(t, err)
		if got := info.Mode().String() + " " + string(data); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
