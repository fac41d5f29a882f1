package nix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuilds: nix's own system is built for here; that of a remote builder, too; no other.
func TestBuilds(t *testing.T) {
	list := filepath.Join(t.TempDir(), "machines")
	if err := os.WriteFile(list, []byte("# ours\nssh://arm aarch64-linux,armv7l-linux - 4\nssh://same\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base := "experimental-features = nix-command flakes\nsystem = x86_64-linux\nextra-platforms = i686-linux\n"
	for builders, want := range map[string]string{
		"": "x86_64-linux i686-linux",
		"builders = ssh://one riscv64-linux; ssh://two - - 1": "x86_64-linux i686-linux riscv64-linux",
		"builders = @" + list:               "x86_64-linux i686-linux aarch64-linux",
		"builders = @/nowhere/that/we/know": "x86_64-linux i686-linux",
	} {
		t.Setenv("NIX_CONFIG", base+builders)
		var got []string
		for _, system := range []string{"x86_64-linux", "i686-linux", "aarch64-linux", "riscv64-linux"} {
			can, err := Settings{}.CanBuild(t.Context(), system)
			if err != nil {
				t.Fatal(err)
			}
			if can {
				got = append(got, system)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: it builds for %s, want %s", builders, got, want)
		}
	}
}
