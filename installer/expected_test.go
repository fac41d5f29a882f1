package installer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"provision/disko"
	"provision/hosts"
)

// reachable are hosts that show themselves on the network, or do not, in many ways. Nothing but what matters is in
// them: all else is missing, as in a flake of another kind.
const reachable = `{
  outputs = { self }:
    let
      ed = path: { type = "ed25519"; inherit path; };
      rsa = path: { type = "rsa"; bits = 4096; inherit path; };
      usual = [ (rsa "/etc/ssh/ssh_host_rsa_key") (ed "/etc/ssh/ssh_host_ed25519_key") ];
      # NixOS copies a key that is a path of the flake into the store by a derivation, which holds all of stdenv.
      copied = { type = "derivation"; outPath = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-ssh_host_ed25519_key"; stdenv = abort "no end of it"; };
      shut = { enable = true; allowedTCPPorts = [ 80 ]; allowedTCPPortRanges = [ ]; };
      memory = { "/" = { device = "none"; fsType = "tmpfs"; options = [ "mode=755" ]; }; "/persist" = { device = "/dev/vda2"; fsType = "ext4"; }; };
      subvolumes = { "/" = { device = "/dev/vda2"; fsType = "btrfs"; options = [ "subvol=root" ]; }; "/keep" = { device = "/dev/vda2"; fsType = "btrfs"; options = [ "subvol=keep" ]; }; };
    in
    {
      nixosConfigurations = builtins.mapAttrs (name: config: { inherit config; pkgs.stdenv.hostPlatform.system = "x86_64-linux"; }) {
        bare = { };
        broken = {
          networking = throw "no network";
          services.openssh = { enable = throw "not said"; ports = "22"; hostKeys = [ 7 { } ]; listenAddresses = [ { addr = throw "x"; } ]; };
          boot.initrd.network.ssh = { enable = 1; hostKeys = throw "x"; };
          environment.persistence = { "/persist".files = throw "x"; "/other".files = [ { } "/etc/ssh/ssh_host_ed25519_key" ]; };
        };
        other-port = { networking.hostName = "Other"; services.openssh = { enable = true; ports = [ 2222 ]; hostKeys = usual; }; };
        addresses = { services.openssh = { enable = true; ports = [ 22 ]; listenAddresses = [ { addr = "127.0.0.1"; port = 22; } { addr = "0.0.0.0"; port = 2200; } { addr = "::"; port = null; } ]; }; };
        loopback = { services.openssh = { enable = true; ports = [ 22 ]; listenAddresses = [ { addr = "::1"; port = null; } ]; }; };
        without = { services.openssh = { enable = false; ports = [ 22 ]; hostKeys = usual; }; };
        only-rsa = { services.openssh = { enable = true; hostKeys = [ (rsa "/etc/ssh/ssh_host_rsa_key") ]; }; };
        shut = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut; };
        ranges = { services.openssh = { enable = true; ports = [ 2022 ]; openFirewall = false; }; networking.firewall = shut // { allowedTCPPortRanges = [ { from = 2000; to = 2100; } ]; }; };
        off = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { enable = false; }; };
        vpn = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { trustedInterfaces = [ "lo" "wg0" ]; interfaces.tailscale0.allowedTCPPorts = [ 22 ]; }; };
        lan = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { interfaces.enp1s0.allowedTCPPorts = [ 22 ]; }; };
        stage1 = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network.ssh = { enable = true; port = 2222; hostKeys = [ "/etc/secrets/initrd/ssh_host_ed25519_key" ]; }; };
        stage1-own = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ /etc/ssh/ssh_host_ed25519_key ]; }; }; };
        stage1-same = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ "/etc/ssh/ssh_host_ed25519_key" "/etc/ssh/ssh_host_rsa_key" ]; }; }; };
        stage1-off = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = false; ssh = { enable = true; port = 22; hostKeys = [ "/etc/ssh/ssh_host_ed25519_key" ]; }; }; };
        stage1-built = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd = { network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ copied ]; }; }; secrets."/etc/ssh/copied" = copied; }; };
        new = { fileSystems = memory; services.openssh = { enable = true; hostKeys = usual; }; };
        by-files = { fileSystems = memory; environment.persistence."/persist".files = [ "/etc/machine-id" { file = "/etc/ssh/ssh_host_ed25519_key"; } ]; };
        by-folders = { fileSystems = memory; environment.persistence.store = { persistentStoragePath = "/persist/system"; directories = [ { directory = "/etc/ssh"; mode = "0755"; } "/var/lib" ]; users.ada = { home = "/home/a"; directories = [ ".keys" ]; }; }; };
        disabled = { fileSystems = memory; environment.persistence."/persist" = { enable = false; directories = [ "/etc/ssh" ]; }; };
        preserved = { fileSystems = memory; preservation.preserveAt."/persist".directories = [ "/etc/ssh" ]; };
        by-bind = { fileSystems = memory // { "/etc/ssh" = { device = "/persist/ssh"; fsType = "none"; options = [ "bind" ]; }; }; };
        named = { fileSystems = memory; services.openssh.hostKeys = [ (ed "/persist/etc/ssh/ssh_host_ed25519_key") ]; };
        rolled-back = { fileSystems = subvolumes; boot.initrd.postDeviceCommands = "mount /dev/vda2 /mnt\nbtrfs subvolume delete /mnt/root\nbtrfs subvolume snapshot /mnt/blank /mnt/root\n"; };
        rolled-service = { fileSystems = subvolumes; boot.initrd.systemd.services.rollback.script = "btrfs sub snap /mnt/blank /mnt/root"; environment.persistence."/keep".directories = [ "/etc" ]; };
        stays = { fileSystems = subvolumes; boot.initrd.postDeviceCommands = "btrfs device scan"; };
      };
    };
}`

// TestExpected: what a flake says of where its host answers, and where its key and its secrets outlast a start.
func TestExpected(t *testing.T) {
	const usual, rest = "/etc/ssh/ssh_host_ed25519_key", "--proof seen"
	nix, dir := flake(t, reachable)
	for _, tt := range []struct {
		host, ports, stage1 string
		keys                string   // where the host's key goes; empty: the usual place
		secret              string   // where /var/lib/x goes; empty: there
		told                []string // part of each warning
	}{
		{host: "bare"},
		{host: "broken", keys: "/other" + usual},
		{host: "other-port", ports: "2222"},
		{host: "addresses", ports: "2200, 22"},
		{host: "loopback", ports: "22", told: []string{"listens for its own machine only"}},
		{host: "without", ports: "22", told: []string{"has no sshd (services.openssh.enable is false)"}},
		{host: "only-rsa", told: []string{"no ed25519 host key (services.openssh.hostKeys has rsa)"}},
		{host: "shut", ports: "22", told: []string{"does not let SSH (port 22) in"}},
		{host: "ranges", ports: "2022"},
		{host: "off", ports: "22"},
		{host: "vpn", ports: "22", told: []string{"from wg0, tailscale0 only"}},
		{host: "lan", ports: "22"},
		{host: "stage1", ports: "22", stage1: "{true 2222 false ssh-rsa}"},
		{host: "stage1-own", ports: "22", stage1: "{true 22 true ssh-rsa}"},
		{host: "stage1-same", ports: "22", stage1: "{true 22 true }", told: []string{"only a login tells them apart"}},
		{host: "stage1-off", ports: "22"},
		{host: "stage1-built", ports: "22", stage1: "{true 22 false ssh-rsa}"},
		{host: "new", told: []string{usual + " lies on /, which is new", "--secret /var/lib/x would be lost when new starts: it lies on /"}},
		{host: "by-files", keys: "/persist" + usual, told: []string{"--secret /var/lib/x"}},
		{host: "by-folders", keys: "/persist/system" + usual, secret: "/persist/system/var/lib/x"},
		{host: "disabled", told: []string{usual, "--secret"}},
		{host: "preserved", keys: "/persist" + usual, told: []string{"--secret"}},
		{host: "by-bind", keys: "/persist/ssh/ssh_host_ed25519_key", told: []string{"--secret"}},
		{host: "named", keys: usual + " /persist" + usual, told: []string{"--secret"}},
		{host: "rolled-back", told: []string{usual, "--secret"}},
		{host: "rolled-service", keys: "/keep" + usual, told: []string{"--secret"}},
		{host: "stays"},
	} {
		c, _, err := nix.Evaluate(t.Context(), dir, tt.host, hosts.Choices{})
		if err == nil || !strings.Contains(err.Error(), "has no disko.devices") {
			t.Errorf("%s: %v", tt.host, err)
			continue
		}
		if e := c.expect(nil); join(e.Ports) != tt.ports || tt.stage1 != "" && fmt.Sprint(e.Stage1) != tt.stage1 || tt.stage1 == "" && e.Stage1 != (hosts.Stage1{}) {
			t.Errorf("%s: listens at %s, stage 1 %v; want %s, %s", tt.host, join(e.Ports), e.Stage1, tt.ports, tt.stage1)
		}
		keys, secret := usual, "/var/lib/x"
		if tt.keys != "" {
			keys = tt.keys
		}
		if tt.secret != "" {
			secret = tt.secret
		}
		if got := strings.Join(c.hostKeyFiles(nil), " "); got != keys {
			t.Errorf("%s: its key goes to %s, want %s", tt.host, got, keys)
		}
		if got, _ := c.place("/var/lib/x", nil); got != secret {
			t.Errorf("%s: a secret goes to %s, want %s", tt.host, got, secret)
		}
		o := hosts.Choices{Secrets: []hosts.SecretFile{{Path: "/var/lib/x"}}}
		told := c.Warnings(tt.host, o, nil)
		for i, want := range tt.told {
			if i >= len(told) || !strings.Contains(told[i], want) {
				t.Errorf("%s: told %q, want one about %q", tt.host, told, want)
			}
		}
		if len(told) != len(tt.told) {
			t.Errorf("%s: told %q", tt.host, told)
		}
		o.Proof = hosts.ProofNone
		if slices.ContainsFunc(c.Warnings(tt.host, o, nil), func(s string) bool { return strings.Contains(s, rest) }) {
			t.Errorf("%s: told of a proof that was chosen", tt.host)
		}
	}
	c, _, _ := nix.Evaluate(t.Context(), dir, "by-folders", hosts.Choices{})
	if got, lost := c.place("/home/a/.keys/id", nil); got != "/persist/system/home/a/.keys/id" || lost != "" {
		t.Errorf("a user's file goes to %s, %s", got, lost)
	}
	c, _, _ = nix.Evaluate(t.Context(), dir, "other-port", hosts.Choices{})
	if c.expect(nil).HostName != "Other" {
		t.Errorf("it is called %q", c.expect(nil).HostName)
	}
	if told := c.Warnings("bare", hosts.Choices{Proof: hosts.ProofSeen}, nil); len(told) > 0 {
		t.Errorf("told %q", told)
	}
}

// TestLayoutIsNew: a layout says what is in memory, and what its hook keeps a blank of, where the configuration does not.
func TestLayoutIsNew(t *testing.T) {
	for name, want := range map[string]string{"tmpfs-root": "/", "ext4": ""} {
		preset, err := disko.FindPreset(name)
		if err != nil {
			t.Fatal(err)
		}
		layout, err := preset.Layout()
		if err != nil {
			t.Fatal(err)
		}
		if _, lost := new(Config).place("/etc/ssh/x", layout); lost != want {
			t.Errorf("%s: it lies on %q", name, lost)
		}
		if at, lost := new(Config).place("/nix/persist/x", layout); lost != "" || at != "/nix/persist/x" {
			t.Errorf("%s: it goes to %s and is lost with %q", name, at, lost)
		}
	}
	blank := Config{Devices: []byte(`{"postCreateHook":"mount $1 /tmp/m\nbtrfs subvolume snapshot -r /tmp/m/root /tmp/m/root-blank"}`)}
	for root, want := range map[string]string{"btrfs": "/", "ext4": ""} {
		blank.Expected.FileSystems = []disko.FileSystem{{MountPoint: "/", Type: root}, {MountPoint: "/nix", Type: root}}
		if _, lost := blank.place("/etc/x", nil); lost != want {
			t.Errorf("a root of %s that is rolled back: lost with %q", root, lost)
		}
		if _, lost := blank.place("/nix/x", nil); lost != "" {
			t.Errorf("%s: /nix is lost with %q", root, lost)
		}
	}
}
