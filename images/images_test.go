package images

import "testing"

func TestParseArch(t *testing.T) {
	for s, want := range map[string]Arch{"x86_64": X86_64, "x86_64-linux": X86_64, "amd64": X86_64,
		"aarch64": AArch64, "aarch64-linux": AArch64, "arm64": AArch64} {
		if got, err := ParseArch(s); got != want || err != nil {
			t.Errorf("ParseArch(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "i686-linux", "x86_64-darwin", "X86_64"} {
		_, err := ParseArch(s)
		checkErr(t, err, "it is x86_64 or aarch64")
	}
}
