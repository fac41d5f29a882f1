package installer

import (
	"bytes"
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
	h, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{theMAC}, DiskKeys: []string{"/tmp/disk.key"}}, time.Hour,
		map[string][]byte{hosts.SecretDisk("/tmp/disk.key"): []byte("correct horse\nx\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Journal("bravo"); !errors.Is(err, hosts.ErrNotFound) {
		t.Errorf("before anything failed: %v", err)
	}
	f := &reconciler{name: "bravo", Installer: &Installer{Hosts: inv, Log: slog.New(slog.DiscardHandler), Now: time.Now}}
	pretend(t, map[string]string{
		"journalctl": "echo no journal >&2; exit 1",
		"dmesg":      `printf 'first\n'; head -c 100000 /dev/zero | tr '\0' '\n'; printf 'opened with "correct horse"\n\033[31mlast box\n'`,
	})
	inHand(f, h, connect(t)).keepJournal(t.Context())
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

// TestOvertaken: that an operator forgets or cancels a host while something happens to it is no error of the server's.
func TestOvertaken(t *testing.T) {
	var log bytes.Buffer
	inv := inventory(t, t.TempDir())
	f := &reconciler{name: "bravo", Installer: &Installer{Hosts: inv, Log: slog.New(slog.NewTextHandler(&log, nil)), Now: time.Now}}
	f.apply(hosts.Event{Kind: hosts.EventProved, Message: "of a host that is forgotten"})
	if _, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{theMAC}}, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	f.apply(hosts.Event{Kind: hosts.EventLost, Message: "of one that is not installed any more"})
	if strings.Count(log.String(), "event not wanted any more") != 2 || strings.Contains(log.String(), "ERROR") {
		t.Errorf("the log says:\n%s", &log)
	}
}
