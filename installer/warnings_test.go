package installer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
)

const stage1Secrets = `
{
  outputs = { self }: {
    nixosConfigurations = builtins.mapAttrs (name: config: { inherit config; pkgs.stdenv.hostPlatform.system = "x86_64-linux"; }) {
      none = { boot.initrd = { }; };
      key = { boot.initrd.secrets."/etc/secrets/initrd/key" = null; };
      named = { boot.initrd.secrets."/key" = "/etc/secrets/initrd/key"; };
      folder = { boot.initrd.secrets."/keys" = "/etc/secrets"; };
      own = { boot.initrd.secrets."/key" = "/etc/ssh/ssh_host_ed25519_key"; };
      stored = { boot.initrd.secrets."/key" = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-key"; };
      tree = { boot.initrd.secrets."/key" = ./flake.nix; };
      run = { boot.initrd.secrets."/key" = "/run/agenix/key"; };
      sops = { boot.initrd.secrets."/key" = "/etc/secrets/initrd/key"; sops.secrets.x.path = "/etc/secrets/initrd/key"; };
      agenix = { boot.initrd.secrets."/key" = "/etc/secrets/initrd/key"; age.secrets.x.path = "/etc/secrets/initrd/key"; };
      etc = { boot.initrd.secrets."/key" = "/etc/key"; environment.etc.key.text = "x"; };
      script = {
        boot.initrd.secrets."/key" = "/etc/secrets/initrd/key";
        system.activationScripts = { keys = { deps = [ ]; text = "ssh-keygen -f /etc/secrets/initrd/key"; }; plain = "true"; broken = throw "no"; };
      };
      throws = { boot.initrd.secrets = throw "no"; system.activationScripts = throw "no"; };
      throws-within = { boot.initrd.secrets."/etc/key" = throw "no"; sops = throw "no"; };
    };
  };
}
`

// TestInitrdSecrets: what the bootloader's installation would miss is told when there is still time.
func TestInitrdSecrets(t *testing.T) {
	n, dir := flake(t, stage1Secrets)
	extra := t.TempDir()
	if err := os.MkdirAll(filepath.Join(extra, "etc/secrets/initrd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(extra, "etc/secrets/initrd/key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const key = "/etc/secrets/initrd/key"
	for host, want := range map[string]string{"none": "", "key": key, "named": key, "folder": "/etc/secrets", "own": "", "stored": "", "tree": "", "run": "",
		"sops": "", "agenix": "", "etc": "", "script": "", "throws": "", "throws-within": "/etc/key"} {
		c, err := n.Evaluate(t.Context(), dir, host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		about := func(o hosts.Choices) string {
			return strings.Join(review{Config: c, host: host, choices: o}.missing(), "; ")
		}
		if got := about(hosts.Choices{}); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: told %q, want %q", host, got, want)
		}
		if want == "" || host == "throws-within" {
			continue
		}
		if !strings.Contains(about(hosts.Choices{}), "--secret "+want+"=FILE") || len(Warnings(c, host, hosts.Choices{Proof: hosts.ProofNone}, nil)) != 1 {
			t.Errorf("%s: told %q", host, Warnings(c, host, hosts.Choices{Proof: hosts.ProofNone}, nil))
		}
		for name, o := range map[string]hosts.Choices{
			"a secret":    {Secrets: []hosts.SecretFile{{Path: key}}},
			"extra files": {ExtraFiles: extra},
			"it is kept":  {Disko: hosts.Mount},
		} {
			if got := about(o); got != "" {
				t.Errorf("%s, and %s brings it: told %q", host, name, got)
			}
		}
		if about(hosts.Choices{Secrets: []hosts.SecretFile{{Path: key + ".pub"}}, ExtraFiles: t.TempDir()}) == "" && host != "folder" {
			t.Errorf("%s: another file counts", host)
		}
	}
}

// TestWarnings: an operator is told how a host may be unable to prove itself, and what its first start would lose.
func TestWarnings(t *testing.T) {
	text, err := os.ReadFile("../internal/nix/testdata/reachable.nix")
	if err != nil {
		t.Fatal(err)
	}
	n, dir := flake(t, string(text))
	for host, want := range map[string][]string{ // a part of each warning
		"bare":           {},
		"broken":         {},
		"other-port":     {},
		"addresses":      {},
		"loopback":       {"listens for its own machine only"},
		"without":        {"has no sshd (services.openssh.enable is false)"},
		"only-rsa":       {"no ed25519 host key (services.openssh.hostKeys has rsa)"},
		"shut":           {"does not let SSH (port 22) in"},
		"ranges":         {},
		"off":            {},
		"vpn":            {"from wg0, tailscale0 only"},
		"lan":            {},
		"stage1":         {},
		"stage1-own":     {},
		"stage1-same":    {"only a login tells them apart"},
		"stage1-off":     {},
		"stage1-built":   {},
		"new":            {"/etc/ssh/ssh_host_ed25519_key lies on /, which is new", "--secret /var/lib/x would be lost when new starts: it lies on /"},
		"by-files":       {"--secret /var/lib/x"},
		"by-folders":     {},
		"disabled":       {"/etc/ssh/ssh_host_ed25519_key", "--secret"},
		"preserved":      {"--secret"},
		"by-bind":        {"--secret"},
		"named":          {"--secret"},
		"rolled-back":    {"/etc/ssh/ssh_host_ed25519_key", "--secret"},
		"rolled-service": {"--secret"},
		"stays":          {},
	} {
		c, err := n.Evaluate(t.Context(), dir, host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		o := hosts.Choices{Secrets: []hosts.SecretFile{{Path: "/var/lib/x"}}}
		told := Warnings(c, host, o, nil)
		for i, words := range want {
			if i >= len(told) || !strings.Contains(told[i], words) {
				t.Errorf("%s: told %q, want one about %q", host, told, words)
			}
		}
		if len(told) != len(want) {
			t.Errorf("%s: told %q", host, told)
		}
		o.Proof = hosts.ProofNone
		ofProof := func(s string) bool { return strings.Contains(s, "--proof seen") }
		if slices.ContainsFunc(Warnings(c, host, o, nil), ofProof) {
			t.Errorf("%s: told of a proof that was chosen", host)
		}
		if host == "other-port" {
			e := expectedOf(c, nil)
			told = Warnings(c, "bare", hosts.Choices{Proof: hosts.ProofSeen}, nil)
			if e.HostName != "Other" || !slices.Equal(e.Ports, []int{2222}) || len(told) > 0 {
				t.Errorf("it is expected as %+v; told %q", e, told)
			}
		}
	}
}
