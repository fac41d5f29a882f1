package lab

import (
	"os"
	"testing"
)

func TestBase(t *testing.T) {
	b, err := makeBase(t.Context(), CacheDir(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(b.dir, len(b.debs))
}
