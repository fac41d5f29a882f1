package lab

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestFleet reads the fleet as provision does, builds all of it, and looks whether the result has NixOS's shape.
func TestFleet(t *testing.T) {
	dir, err := Fleet{AuthorizedKeys: "ssh-ed25519 AAAA lab\n"}.Write(t.Context(), CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	plain := exec.CommandContext(t.Context(), "nix", "eval", "--json", dir+"#nixosConfigurations.alpha.config.disko.devices")
	plain.Env = NixEnv()
	if _, err := output(plain); err == nil || !strings.Contains(err.Error(), "cannot convert a function to JSON") {
		t.Errorf("plain nix eval of the layout: %v; with disko it fails for its functions", err)
	}
	if got := nix(t, "eval", "--json", dir+"#nixosConfigurations", "--apply", "builtins.attrNames"); got != `["alpha","bravo","charlie","india"]` {
		t.Errorf("without AArch64 the hosts are %s", got)
	}
	for _, host := range []string{"alpha", "bravo", "charlie", "india"} {
		testHost(t, dir, host, "x86_64-linux")
	}
}

// TestArm64FleetByHand is TestFleet for arm64.
func TestArm64FleetByHand(t *testing.T) {
	dir, err := Fleet{AArch64: true}.Write(t.Context(), CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	testHost(t, dir, "delta", "aarch64-linux")
}

// testHost builds a host of the flake in dir.
func testHost(t *testing.T, dir, host, system string) {
	t.Helper()
	attr := dir + "#nixosConfigurations." + host
	if got := nix(t, "eval", "--raw", attr+".pkgs.stdenv.hostPlatform.system"); got != system {
		t.Errorf("%s is for %q", host, got)
	}
	var built []struct{ Outputs map[string]string }
	check(t, json.Unmarshal([]byte(nix(t, "build", "--json", "--no-link", attr+".config.system.build.toplevel")), &built))
	for _, entry := range []string{
		"kernel", "initrd", "kernel-params", "init", "activate", "sw/bin/bash", "etc/os-release", "nixos-version",
		"system", "bin/switch-to-configuration",
	} {
		if _, err := os.Stat(built[0].Outputs["out"] + "/" + entry); err != nil {
			t.Errorf("toplevel of %s: %v", host, err)
		}
	}
	if got, err := os.ReadFile(built[0].Outputs["out"] + "/system"); err != nil || string(got) != system {
		t.Errorf("toplevel of %s is for %q: %v", host, got, err)
	}
}

// TestFleetLayouts compares the attributes of the fleet's layouts with those that disko gives to the same types.
func TestFleetLayouts(t *testing.T) {
	dir, err := Fleet{Disk: "/dev/nvme0n1"}.Write(t.Context(), CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	const strip = `let strip = v: if builtins.isAttrs v then builtins.listToAttrs (builtins.concatMap
		(n: if builtins.isFunction v.${n} then [ ] else [{ name = n; value = strip v.${n}; }]) (builtins.attrNames v))
		else v; in strip`
	for host, want := range map[string]string{
		"bravo": `{"additionalKeyFiles":[],"askPassword":false,"content":{"device":"/dev/mapper/crypted","extraArgs":[],` +
			`"format":"ext4","mountOptions":["defaults"],"mountpoint":"/",HOOKS"type":"filesystem"},` +
			`"device":"/dev/disk/by-partlabel/disk-main-luks",` +
			`"extraFormatArgs":["--pbkdf","pbkdf2","--pbkdf-force-iterations","1000"],"extraOpenArgs":[],` +
			`"initrdUnlock":true,"keyFile":null,"name":"crypted","passwordFile":"/tmp/disk.key",HOOKS"settings":{},` +
			`"type":"luks"}`,
		"charlie": `{"additionalKeyFiles":[],"askPassword":false,"content":{"device":"/dev/mapper/crypted",` +
			`"extraArgs":["-f"],"mountOptions":["defaults"],"mountpoint":null,HOOKS"subvolumes":{` +
			`"/home":SUBVOLUME(/home,/home),"/nix":SUBVOLUME(/nix,/nix),"/root":SUBVOLUME(/root,/)},"swap":{},` +
			`"type":"btrfs"},"device":"/dev/disk/by-partlabel/disk-main-luks",` +
			`"extraFormatArgs":["--pbkdf","pbkdf2","--pbkdf-force-iterations","1000"],"extraOpenArgs":[],` +
			`"initrdUnlock":true,"keyFile":null,"name":"crypted","passwordFile":null,HOOKS"settings":{` +
			`"allowDiscards":true,"fallbackToPassword":true,"keyFile":"/tmp/disk.key"},"type":"luks"}`,
	} {
		want = strings.ReplaceAll(want, "HOOKS", `"postCreateHook":"","postMountHook":"","postUnmountHook":"",`+
			`"preCreateHook":"","preMountHook":"","preUnmountHook":"",`)
		for _, name := range []string{"/home,/home", "/nix,/nix", "/root,/"} {
			subvolume, mountpoint, _ := strings.Cut(name, ",")
			want = strings.ReplaceAll(want, "SUBVOLUME("+name+")", `{"extraArgs":[],"mountOptions":["compress=zstd","noatime"],`+
				`"mountpoint":"`+mountpoint+`","name":"`+subvolume+`","swap":{},"type":"btrfs_subvol"}`)
		}
		disk := dir + "#nixosConfigurations." + host + ".config.disko.devices.disk.main"
		if got := nix(t, "eval", "--json", disk+".content.partitions.luks.content", "--apply", strip); got != want {
			t.Errorf("%s:\n got %s\nwant %s", host, got, want)
		}
		if got := nix(t, "eval", "--raw", disk+".device"); got != "/dev/nvme0n1" {
			t.Errorf("%s: disk is %s", host, got)
		}
	}
}

func nix(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nix", args...)
	cmd.Env = NixEnv()
	out, err := output(cmd)
	check(t, err)
	return out
}
