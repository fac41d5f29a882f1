package lab

import (
	"os"
	"testing"
	"time"
)

func TestImage(t *testing.T) {
	img, err := Image(t.Context(), CacheDir(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := Image(t.Context(), CacheDir(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	t.Log(img, time.Since(start))
}
