package installer

import (
	"os"
	"path/filepath"
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
	nix, dir := flake(t, stage1Secrets)
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
		c, _, err := nix.Evaluate(t.Context(), dir, host, hosts.Choices{})
		if err == nil || !strings.Contains(err.Error(), "has no disko.devices") {
			t.Errorf("%s: %v", host, err)
			continue
		}
		about := func(o hosts.Choices) string {
			return strings.Join(c.missing(host, o, nil), "; ")
		}
		if got := about(hosts.Choices{}); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: told %q, want %q", host, got, want)
		}
		if want == "" || host == "throws-within" {
			continue
		}
		if !strings.Contains(about(hosts.Choices{}), "--secret "+want+"=FILE") || len(c.Warnings(host, hosts.Choices{Proof: hosts.ProofNone}, nil)) != 1 {
			t.Errorf("%s: told %q", host, c.Warnings(host, hosts.Choices{Proof: hosts.ProofNone}, nil))
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
