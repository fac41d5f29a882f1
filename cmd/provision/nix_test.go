package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// TestNixFiles: what is in nix/ can be parsed, and names the modules that go.mod does.
func TestNixFiles(t *testing.T) {
	files, err := filepath.Glob("../../nix/*.nix")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files, %v", err)
	}
	for _, file := range append(files, "../../flake.nix", "testdata/module.nix") {
		if out, err := exec.Command("nix-instantiate", "--parse", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", file, err, out)
		}
	}
	// As nixpkgs' buildGoModule makes it.
	vendor := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", vendor)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hash, err := exec.Command("nix", "--extra-experimental-features", "nix-command", "hash", "path", vendor).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("vendorHash = %q;", strings.TrimSpace(string(hash)))
	data, err := os.ReadFile("../../nix/package.nix")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), want) {
		t.Errorf("go.mod has changed: nix/package.nix is to have %s", want)
	}
}

// module is what testdata/module.nix tells.
type module struct {
	Settings map[string]any
	Service  struct{ ServiceConfig map[string]any }
	Users    struct{ Groups map[string]any }
	Images   string
	Firewall map[string]struct {
		AllowedTCPPorts, AllowedUDPPorts []int
	}
	Wrong, Undescribed []string
}

func evalModule(t *testing.T, services string) (m module) {
	t.Helper()
	lib := os.Getenv("PROVISION_NIXPKGS_LIB")
	if lib == "" {
		t.Skip("PROVISION_NIXPKGS_LIB is not set to the folder lib of nixpkgs: see make module")
	}
	file, err := filepath.Abs("../../nix/module.nix")
	if err != nil {
		t.Fatal(err)
	}
	expression := fmt.Sprintf("import ./testdata/module.nix { lib = import %s; module = %s; services = %s; }",
		lib, file, services)
	cmd := exec.Command("nix-instantiate", "--eval", "--strict", "--json", "--expr", expression)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNixModuleByHand: what the options of services.provision come to is a file that serve takes, and a unit with the
// settings of packaging/.
func TestNixModuleByHand(t *testing.T) {
	m := evalModule(t, `{
		flake = "github:example/fleet";
		interfaces = [ "br0" "br1=10.0.1.1" ];
		dhcp = { mode = "server"; ranges = [ "10.0.0.100-10.0.0.199" ]; router = "10.0.0.1"; dns = [ "10.0.0.1" ];
			domain = "example.org"; lease = "30m"; };
		unknown = "hold";
		group = "netboot";
		openFirewall = true;
		settings = { builds = 4; http = ":8080"; verbose = true; unknown = "ignore"; };
		images.nixos = { from = "https://example.org/it's"; arch = "x86_64"; sha256 = [ "00" ]; };
	}`)
	data, err := toml.Marshal(m.whole())
	if err != nil {
		t.Fatal(err)
	}
	flags := serveFlagsFor(t)
	if _, err := readConfig(writeConfig(t, string(data)), flags); err != nil {
		t.Fatalf("%v in:\n%s", err, data)
	}
	for flag, want := range map[string]string{
		"flake": "github:example/fleet", "interface": "[br0,br1=10.0.1.1]", "dhcp": "server", "unknown": "ignore",
		"dhcp-range": "[10.0.0.100-10.0.0.199]", "dhcp-router": "10.0.0.1", "dhcp-dns": "[10.0.0.1]",
		"dhcp-domain": "example.org", "dhcp-lease": "30m0s", "socket-group": "netboot", "builds": "4", "http": ":8080",
		"verbose": "true",
	} {
		if got := flags.Lookup(flag); !got.Changed || got.Value.String() != want {
			t.Errorf("%s is %s, want %s", flag, got.Value, want)
		}
	}
	if len(m.Firewall) != 2 || !slices.Equal(m.Firewall["br1"].AllowedTCPPorts, []int{8080}) ||
		!slices.Equal(m.Firewall["br1"].AllowedUDPPorts, []int{69, 67, 547, 4011}) {
		t.Errorf("the firewall: %v", m.Firewall)
	}
	if m.Users.Groups["netboot"] == nil || len(m.Wrong) > 0 || len(m.Undescribed) > 0 {
		t.Errorf("groups %v, wrong %v, undescribed %v", m.Users.Groups, m.Wrong, m.Undescribed)
	}
	want := `|| provision images add nixos --from 'https://example.org/it'\''s' --arch x86_64 --sha256 00`
	if !strings.Contains(m.Images, want) {
		t.Errorf("images: %s", m.Images)
	}
	if got := m.Service.ServiceConfig["ExecStart"]; got != "/usr/bin/provision serve --config /etc/provision.toml" {
		t.Errorf("it starts %s", got)
	}

	// The defaults are those of the flags.
	m = evalModule(t, `{ flake = "/srv/fleet"; interfaces = [ "br0" ]; }`)
	flags = serveFlagsFor(t)
	for name, value := range m.Settings {
		f := flags.Lookup(name)
		if f == nil {
			t.Errorf("%s is no flag", name)
			continue
		}
		before := f.Value.String()
		if err := setFlag(f, value, false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if f.Value.String() != before && name != "flake" && name != "interface" {
			t.Errorf("%s is %s by default, want %s", name, f.Value, before)
		}
	}
	if len(m.Firewall) > 0 || m.Images != "" || len(m.Users.Groups) > 0 || len(m.Wrong) > 0 {
		t.Errorf("more than was asked for: %+v", m)
	}
	if m = evalModule(t, `{ flake = "/a"; interfaces = [ "b" ]; dhcp.mode = "server"; }`); len(m.Wrong) != 1 {
		t.Errorf("a DHCP server without addresses: %q", m.Wrong)
	}
	if m = evalModule(t, `{ flake = "/a"; interfaces = [ "b" ]; dhcp.ranges = [ "c" ]; }`); len(m.Wrong) != 1 {
		t.Errorf("addresses without a DHCP server: %q", m.Wrong)
	}
}

// whole has integers again, of which JSON makes floating point numbers.
func (m module) whole() map[string]any {
	for name, value := range m.Settings {
		if n, is := value.(float64); is {
			m.Settings[name] = int64(n)
		}
	}
	return m.Settings
}

// TestNixModuleUnitByHand: the module's unit and packaging/'s say the same.
func TestNixModuleUnitByHand(t *testing.T) {
	m := evalModule(t, `{ flake = "/srv/fleet"; interfaces = [ "br0" ]; }`)
	packaged := make(map[string][]string)
	for _, file := range []string{"provision.service", "nix-daemon.conf"} {
		data, err := os.ReadFile("../../packaging/" + file)
		if err != nil {
			t.Fatal(err)
		}
		_, service, _ := strings.Cut(string(data), "[Service]\n")
		service, _, _ = strings.Cut(service, "\n[")
		for line := range strings.Lines(service) {
			name, value, is := strings.Cut(strings.TrimSpace(line), "=")
			switch {
			case !is || strings.HasPrefix(line, "#"):
			case value == "":
				delete(packaged, name)
			default:
				packaged[name] = append(packaged[name], strings.Fields(value)...)
			}
		}
	}
	// A module for NixOS has other ways to say these, and PrivateDevices closes what these do.
	for _, name := range []string{"ExecStart", "Environment", "DevicePolicy"} {
		delete(packaged, name)
		delete(m.Service.ServiceConfig, name)
	}
	for name, want := range packaged {
		var got []string
		switch value := m.Service.ServiceConfig[name].(type) {
		case []any:
			for _, v := range value {
				got = append(got, fmt.Sprint(v))
			}
		case bool:
			got = []string{map[bool]string{true: "yes", false: "no"}[value]}
		case nil:
		default:
			got = []string{fmt.Sprint(value)}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s is %v in the module and %v in packaging/", name, got, want)
		}
		delete(m.Service.ServiceConfig, name)
	}
	if len(m.Service.ServiceConfig) > 0 {
		t.Errorf("only the module has %v", m.Service.ServiceConfig)
	}
}
