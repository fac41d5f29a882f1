package nix

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDeafDaemon: a daemon that missed the signal to end is told again.
func TestDeafDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root lets another user use its store")
	}
	dir := folder(t)
	ready := filepath.Join(dir, "ready")
	write(t, filepath.Join(dir, "nix"), "#!/bin/sh\ntrap 'trap - TERM' TERM\n>"+ready+"\nwhile :; do sleep 0.1; done\n")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	d, err := openDoor(t.Context(), account(ada, ada), os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	begun := time.Now()
	if err := d.close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took >= doorDelay {
		t.Errorf("it had to be killed, after %s", took)
	}
}
