package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImage looks at the image's files, and whether it is built only once.
func TestImage(t *testing.T) {
	img, err := Image(t.Context(), CacheDir(), X86_64, os.Stderr)
	check(t, err)
	start := time.Now()
	dir, err := ReleaseDir(t.Context(), CacheDir(), X86_64, os.Stderr)
	check(t, err)
	if took := time.Since(start); took > time.Second {
		t.Errorf("the image took %s from the cache", took)
	}
	info, err := os.Stat(img.Initrd)
	check(t, err)
	if size := info.Size(); size%4 != 0 || size > 200<<20 {
		t.Errorf("the initrd has %d bytes; want a multiple of 4, and at most 200 MiB", size)
	}
	script, err := os.ReadFile(filepath.Join(dir, "netboot-x86_64-linux.ipxe"))
	check(t, err)
	init, params, _ := strings.Cut(img.Cmdline, " ")
	want := "\nkernel bzImage-x86_64-linux " + init + " initrd=initrd-x86_64-linux " + params + " ${cmdline}\n"
	if !strings.Contains(string(script), want) {
		t.Errorf("iPXE script has not the line %q:\n%s", want, script)
	}
}
