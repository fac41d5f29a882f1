package lab

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestFleet(t *testing.T) {
	dir, err := Fleet{AuthorizedKeys: "ssh-ed25519 AAAA test\n"}.Write(t.Context(), CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	for _, host := range []string{"alpha", "bravo", "charlie"} {
		start := time.Now()
		out := nix(t, "build", "--json", "--no-link", dir+"#nixosConfigurations."+host+".config.system.build.toplevel")
		t.Log(out, time.Since(start))
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
