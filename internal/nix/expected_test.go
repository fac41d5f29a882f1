package nix

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"provision/disko"
)

// TestExpected: what a flake says of where its host answers, and where its key and its secrets outlast a start.
func TestExpected(t *testing.T) {
	text, err := os.ReadFile("testdata/reachable.nix")
	if err != nil {
		t.Fatal(err)
	}
	const usual = "/etc/ssh/ssh_host_ed25519_key"
	n, dir := builder(t, string(text))
	for _, tt := range []struct {
		host   string
		ports  []int
		stage1 string
		keys   string // where the host's key goes; empty: the usual place
		secret string // where /var/lib/x goes; empty: there
	}{
		{host: "bare"},
		{host: "broken", keys: "/other" + usual},
		{host: "other-port", ports: []int{2222}},
		{host: "addresses", ports: []int{2200, 22}},
		{host: "loopback", ports: []int{22}},
		{host: "without", ports: []int{22}},
		{host: "only-rsa"},
		{host: "shut", ports: []int{22}},
		{host: "ranges", ports: []int{2022}},
		{host: "off", ports: []int{22}},
		{host: "vpn", ports: []int{22}},
		{host: "lan", ports: []int{22}},
		{host: "stage1", ports: []int{22}, stage1: "{true 2222 false ssh-rsa}"},
		{host: "stage1-own", ports: []int{22}, stage1: "{true 22 true ssh-rsa}"},
		{host: "stage1-same", ports: []int{22}, stage1: "{true 22 true }"},
		{host: "stage1-off", ports: []int{22}},
		{host: "stage1-built", ports: []int{22}, stage1: "{true 22 false ssh-rsa}"},
		{host: "new"},
		{host: "by-files", keys: "/persist" + usual},
		{host: "by-folders", keys: "/persist/system" + usual, secret: "/persist/system/var/lib/x"},
		{host: "disabled"},
		{host: "preserved", keys: "/persist" + usual},
		{host: "by-bind", keys: "/persist/ssh/ssh_host_ed25519_key"},
		{host: "named", keys: usual + " /persist" + usual},
		{host: "rolled-back"},
		{host: "rolled-service", keys: "/keep" + usual},
		{host: "stays"},
	} {
		c, err := n.Evaluate(t.Context(), dir, tt.host)
		if err != nil {
			t.Errorf("%s: %v", tt.host, err)
			continue
		}
		got := c.Stage1(nil)
		if tt.stage1 != "" && fmt.Sprint(got) != tt.stage1 || tt.stage1 == "" && got != (Stage1{}) {
			t.Errorf("%s: stage 1 %v; want %s", tt.host, got, tt.stage1)
		}
		if ports := c.Expected.SSHPorts(); !slices.Equal(ports, tt.ports) {
			t.Errorf("%s: listens at %v; want %v", tt.host, ports, tt.ports)
		}
		keys, secret := usual, "/var/lib/x"
		if tt.keys != "" {
			keys = tt.keys
		}
		if tt.secret != "" {
			secret = tt.secret
		}
		if got := strings.Join(c.HostKeyFiles(nil), " "); got != keys {
			t.Errorf("%s: its key goes to %s, want %s", tt.host, got, keys)
		}
		if got, _ := c.Locate("/var/lib/x", nil); got != secret {
			t.Errorf("%s: a secret goes to %s, want %s", tt.host, got, secret)
		}
	}
	c, err := n.Evaluate(t.Context(), dir, "by-folders")
	if got, lost := c.Locate("/home/a/.keys/id", nil); err != nil || got != "/persist/system/home/a/.keys/id" || lost != "" {
		t.Errorf("a user's file goes to %s, %s, %v", got, lost, err)
	}
	c, err = n.Evaluate(t.Context(), dir, "other-port")
	if err != nil || c.Expected.HostName != "Other" {
		t.Errorf("it is called %q, %v", c.Expected.HostName, err)
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
		if _, lost := new(Config).Locate("/etc/ssh/x", layout); lost != want {
			t.Errorf("%s: it lies on %q", name, lost)
		}
		if at, lost := new(Config).Locate("/nix/persist/x", layout); lost != "" || at != "/nix/persist/x" {
			t.Errorf("%s: it goes to %s and is lost with %q", name, at, lost)
		}
	}
	blank := Config{Devices: []byte(`{"postCreateHook":"mount $1 /tmp/m\nbtrfs subvolume snapshot -r /tmp/m/root /tmp/m/root-blank"}`)}
	for root, want := range map[string]string{"btrfs": "/", "ext4": ""} {
		blank.Expected.FileSystems = []disko.FileSystem{{MountPoint: "/", Type: root}, {MountPoint: "/nix", Type: root}}
		if _, lost := blank.Locate("/etc/x", nil); lost != want {
			t.Errorf("a root of %s that is rolled back: lost with %q", root, lost)
		}
		if _, lost := blank.Locate("/nix/x", nil); lost != "" {
			t.Errorf("%s: /nix is lost with %q", root, lost)
		}
	}
}
