package handover

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFactsOfFiles(t *testing.T) {
	m := Machine{Root: t.TempDir()}
	if m.secureBoot() != "off" || m.lockdown() != "unknown" || len(m.interfaces()) != 0 {
		t.Errorf("of nothing: %s, %s, %v", m.secureBoot(), m.lockdown(), m.interfaces())
	}
	check(t, os.MkdirAll(m.path(efivars), 0o755))
	if m.secureBoot() != "unknown" {
		t.Error("Secure Boot is not unknown without variables")
	}
	for value, want := range map[string]string{"\x06\x00\x00\x00\x01": "on", "\x06\x00\x00\x00\x00": "off", "\x06\x00": "unknown", "\x06\x00\x00\x00": "unknown"} {
		check(t, os.WriteFile(m.variable("SecureBoot"), []byte(value), 0o644))
		if got := m.secureBoot(); got != want {
			t.Errorf("%q: Secure Boot is %s", value, got)
		}
	}
	put(t, m, map[string]string{"sys/kernel/security/lockdown": "[none] integrity confidentiality\n"})
	if m.lockdown() != "none" {
		t.Errorf("lockdown is %s", m.lockdown())
	}
}

// TestInterfaces has a network card, a port of a bond, Wi-Fi, and a bridge.
func TestInterfaces(t *testing.T) {
	m := Machine{Root: t.TempDir()}
	put(t, m, map[string]string{
		"sys/class/net/test0/device/vendor": "", "sys/class/net/test0/type": "1\n", "sys/class/net/test0/address": "52:54:00:00:00:01\n",
		"sys/class/net/test1/device/vendor": "", "sys/class/net/test1/type": "1\n", "sys/class/net/test1/address": "52:54:00:00:00:01\n",
		"sys/class/net/test1/bonding_slave/perm_hwaddr": "52:54:00:00:00:02\n",
		"sys/class/net/test2/device/vendor":             "", "sys/class/net/test2/type": "1\n", "sys/class/net/test2/address": "52:54:00:00:00:03\n",
		"sys/class/net/test2/phy80211/name": "",
		"sys/class/net/test3/type":          "1\n", "sys/class/net/test3/address": "52:54:00:00:00:04\n",
		"sys/class/net/test4/device/vendor": "", "sys/class/net/test4/type": "32\n", "sys/class/net/test4/address": "52:54:00:00:00:05\n",
	})
	// lo is there on every machine that runs this test.
	check(t, os.Symlink("../lo", m.path("sys/class/net/test1/master")))
	got := m.interfaces()
	if len(got) != 2 || got[0].Name != "test0" || got[0].MAC != "52:54:00:00:00:01" || len(got[0].Addresses) != 0 ||
		got[1].MAC != "52:54:00:00:00:02" || len(got[1].Addresses) == 0 || got[1].Addresses[0] != "127.0.0.1/8" {
		t.Errorf("got %+v", got)
	}
}

func TestParseRelease(t *testing.T) {
	got := parseRelease("NAME='Debian'\nID=debian\n# ID=no\nVARIANT_ID=\"installer\"\n\nodd\n")
	if got["ID"] != "debian" || got["VARIANT_ID"] != "installer" || got["NAME"] != "Debian" {
		t.Errorf("got %q", got)
	}
}

// TestIPJSON has an ip that knows no JSON, as busybox's.
func TestIPJSON(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	for script, want := range map[string]string{
		"echo '[{\"dev\":\"'$2$3'\"}]'":                `[{"dev":"-4route"}]` + "\n",
		"echo 'BusyBox: unknown option' >&2; exit 1":   "",
		"echo '1: lo: <LOOPBACK,UP> mtu 65536'":        "",
		"echo '[{\"dev\":\"eth0\"'":                    "",
		"[ \"$1\" = -json ] && echo '[]' || echo '{}'": "[]\n",
	} {
		check(t, os.WriteFile(filepath.Join(dir, "ip"), []byte("#!/bin/sh\n"+script), 0o755))
		if got := string(ipJSON(t.Context(), "-4", "route")); got != want {
			t.Errorf("%s: got %q, want %q", script, got, want)
		}
	}
}
