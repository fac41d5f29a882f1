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
	if got := nix(t, "eval", "--json", dir+"#nixosConfigurations", "--apply", "builtins.attrNames"); got != `["alpha","bravo","charlie","echo","foxtrot","hotel","india","juliett","kilo","lima","november","oscar"]` {
		t.Errorf("without AArch64 the hosts are %s", got)
	}
	for _, host := range []string{"alpha", "bravo", "charlie", "echo", "foxtrot", "hotel", "india", "juliett", "kilo", "lima", "november", "oscar"} {
		testHost(t, dir, host, "x86_64-linux")
	}
}

// TestArm64FleetByHand is TestFleet for arm64.
func TestArm64FleetByHand(t *testing.T) {
	dir, err := Fleet{AArch64: true}.Write(t.Context(), CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	testHost(t, dir, "delta", "aarch64-linux")
	testHost(t, dir, "mike", "aarch64-linux")
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
	const filesystem = `"extraArgs":[],"format":"ext4","mountOptions":["defaults"],"mountpoint":`
	for path, want := range map[string]string{
		"bravo disk.main.content.partitions.luks.content": `{"additionalKeyFiles":[],"askPassword":false,` +
			`"content":{"device":"/dev/mapper/crypted",` + filesystem + `"/",HOOKS"type":"filesystem"},` +
			`"device":"/dev/disk/by-partlabel/disk-main-luks",` +
			`"extraFormatArgs":["--pbkdf","pbkdf2","--pbkdf-force-iterations","1000"],"extraOpenArgs":[],` +
			`"initrdUnlock":true,"keyFile":null,"name":"crypted","passwordFile":"/tmp/disk.key",HOOKS"settings":{},` +
			`"type":"luks"}`,
		"charlie disk.main.content.partitions.luks.content": `{"additionalKeyFiles":[],"askPassword":false,` +
			`"content":{"device":"/dev/mapper/crypted",` +
			`"extraArgs":["-f"],"mountOptions":["defaults"],"mountpoint":null,HOOKS"subvolumes":{` +
			`"/home":SUBVOLUME(/home,/home),"/nix":SUBVOLUME(/nix,/nix),"/root":SUBVOLUME(/root,/)},"swap":{},` +
			`"type":"btrfs"},"device":"/dev/disk/by-partlabel/disk-main-luks",` +
			`"extraFormatArgs":["--pbkdf","pbkdf2","--pbkdf-force-iterations","1000"],"extraOpenArgs":[],` +
			`"initrdUnlock":true,"keyFile":null,"name":"crypted","passwordFile":null,HOOKS"settings":{` +
			`"allowDiscards":true,"fallbackToPassword":true,"keyFile":"/tmp/disk.key"},"type":"luks"}`,
		"echo disk.main.content.partitions.luks.content.content": `{"device":"/dev/mapper/crypted",HOOKS"type":"lvm_pv","vg":"pool"}`,
		"echo lvm_vg": `{"pool":{"lvs":{` +
			`"home":{"content":{"device":"/dev/pool/home",` + filesystem + `"/home",HOOKS"type":"filesystem"},` +
			`"extraArgs":[],"lvm_type":null,"name":"home","pool":null,"priority":1251,"size":"100%FREE"},` +
			`"root":{"content":{"device":"/dev/pool/root",` + filesystem + `"/",HOOKS"type":"filesystem"},` +
			`"extraArgs":[],"lvm_type":null,"name":"root","pool":null,"priority":1000,"size":"60%FREE"},` +
			`"swap":{"content":{"device":"/dev/pool/swap","discardPolicy":null,"extraArgs":[],"mountOptions":["defaults"],` +
			`HOOKS"priority":null,"randomEncryption":false,"resumeDevice":false,"type":"swap"},` +
			`"extraArgs":[],"lvm_type":null,"name":"swap","pool":null,"priority":1000,"size":"64M"}},` +
			`"name":"pool",HOOKS"type":"lvm_vg"}}`,
		"foxtrot disk.second.content.partitions.root.content": `{"device":"/dev/disk/by-partlabel/disk-second-root",` +
			`"name":"root",HOOKS"type":"mdraid"}`,
		"foxtrot mdadm.root": `{"content":{"device":"/dev/md/root",` + filesystem + `"/",HOOKS"type":"filesystem"},` +
			`"extraArgs":["--assume-clean"],"level":1,"metadata":"default","name":"root",HOOKS"type":"mdadm"}`,
		"juliett disk.main.destroy": `false`,
		"juliett disk.main.content.partitions.ESP": `{"alignment":0,"attributes":[],"content":{` +
			`"device":"/dev/disk/by-partlabel/SYSTEM","extraArgs":[],"format":"vfat","mountOptions":["umask=0077"],` +
			`"mountpoint":"/boot",HOOKS"type":"filesystem"},"device":"/dev/disk/by-partlabel/SYSTEM","end":"+192M",` +
			`"hybrid":null,"label":"SYSTEM","name":"ESP","priority":1000,"size":"192M","start":"0","type":"EF00","uuid":null}`,
		"hotel nodev": `{"/":{"device":"tmpfs","fsType":"tmpfs","mountOptions":["size=256M","mode=755"],"mountpoint":"/",` +
			`HOOKS"type":"nodev"}}`,
	} {
		host, attr, _ := strings.Cut(path, " ")
		want = strings.ReplaceAll(want, "HOOKS", `"postCreateHook":"","postMountHook":"","postUnmountHook":"",`+
			`"preCreateHook":"","preMountHook":"","preUnmountHook":"",`)
		for _, name := range []string{"/home,/home", "/nix,/nix", "/root,/"} {
			subvolume, mountpoint, _ := strings.Cut(name, ",")
			want = strings.ReplaceAll(want, "SUBVOLUME("+name+")", `{"extraArgs":[],"mountOptions":["compress=zstd","noatime"],`+
				`"mountpoint":"`+mountpoint+`","name":"`+subvolume+`","swap":{},"type":"btrfs_subvol"}`)
		}
		devices := dir + "#nixosConfigurations." + host + ".config.disko.devices."
		if got := nix(t, "eval", "--json", devices+attr, "--apply", strip); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	for host, want := range map[string]string{"bravo disk.main": "/dev/nvme0n1", "foxtrot disk.second": "/dev/vdb"} {
		host, disk, _ := strings.Cut(host, " ")
		attr := dir + "#nixosConfigurations." + host + ".config.disko.devices." + disk + ".device"
		if got := nix(t, "eval", "--raw", attr); got != want {
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
