package installer

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"provision/hosts"
)

// TestKeepJournal: of an installer's journal the end is kept, without control characters and without what is secret.
func TestKeepJournal(t *testing.T) {
	inv := inventory(t, t.TempDir())
	h, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{theMAC}, Options: hosts.Options{DiskKeys: []string{"/tmp/disk.key"}}}, time.Hour,
		map[string][]byte{hosts.SecretDisk("/tmp/disk.key"): []byte("correct horse\nx\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Journal("bravo"); !errors.Is(err, hosts.ErrNotFound) {
		t.Errorf("before anything failed: %v", err)
	}
	f := &follower{name: "bravo", Installer: &Installer{Hosts: inv, Log: slog.New(slog.DiscardHandler), Now: time.Now}}
	pretend(t, map[string]string{
		"journalctl": "echo no journal >&2; exit 1",
		"dmesg":      `printf 'first\n'; head -c 100000 /dev/zero | tr '\0' '\n'; printf 'opened with "correct horse"\n\033[31mlast box\n'`,
	})
	f.keepJournal(t.Context(), h, connect(t))
	kept, err := inv.Journal("bravo")
	if err != nil || len(kept) > hosts.MaxJournal || !strings.HasSuffix(kept, "\nopened with \"(a secret)\"\n\x1b[31mlast box\n") || strings.Contains(kept, "first") {
		t.Errorf("%d bytes are kept, %v: %q", len(kept), err, kept[max(0, len(kept)-60):])
	}
	if err := inv.Purge("bravo"); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Journal("bravo"); !errors.Is(err, hosts.ErrNotFound) {
		t.Errorf("after the host was forgotten: %v", err)
	}
}
