package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/store"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t testing.TB, dir string) (*Inventory, *store.Bolt, *clock) {
	t.Helper()
	db := openStore(t, filepath.Join(dir, "state.db"))
	vault, err := OpenVault(filepath.Join(dir, "secrets.key"))
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{now: noon}
	inv, err := New(db, vault, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	return inv, db, c
}

func openStore(t testing.TB, path string) *store.Bolt {
	t.Helper()
	db, err := store.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func enroll(t testing.TB, inv *Inventory, name string, macs ...string) Host {
	t.Helper()
	h, err := inv.Enroll(Host{Name: name, MACs: macs, Arch: "x86_64"}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

const mac1, mac2, mac3 = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"

func TestEnroll(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	a := enroll(t, inv, "alpha", strings.ToUpper(mac1), mac2)
	for _, m := range []string{mac1, mac2} {
		if h, err := inv.ByMAC(m); err != nil || h.Name != "alpha" {
			t.Errorf("%s: %s, %v", m, h.Name, err)
		}
	}
	private, err := inv.Secret("alpha", SecretHostKey)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil || authorized(signer.PublicKey()) != a.HostKey {
		t.Errorf("the private host key is not that of %s: %v", a.HostKey, err)
	}

	_, err = inv.Enroll(Host{Name: "bravo", MACs: []string{mac3, mac2}}, time.Hour, nil)
	if err == nil || !strings.Contains(err.Error(), "enrolled already, as alpha") {
		t.Errorf("a MAC of alpha: %v", err)
	}
	if _, err := inv.Get("bravo"); !errors.Is(err, ErrNotFound) {
		t.Error("the refused enrolment left something behind")
	}
	_, err = inv.Apply("bravo", Event{Kind: EventRetried}) // as of one that is forgotten while its retry is prepared
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "host bravo") {
		t.Errorf("an event of a host that is not there: %v", err)
	}
	if _, err := inv.ByMAC(mac3); !errors.Is(err, ErrNotFound) {
		t.Error("the refused enrolment took a MAC")
	}

	again := enroll(t, inv, "alpha", mac3)
	if again.HostKey != a.HostKey {
		t.Error("enrolling again changed the host key")
	}
	if _, err := inv.ByMAC(mac1); !errors.Is(err, ErrNotFound) {
		t.Error("a MAC that was taken from the host still leads to it")
	}
	enroll(t, inv, "bravo", mac1)

	for _, bad := range []Host{
		{Name: "../x", MACs: []string{mac2}}, {Name: "", MACs: []string{mac2}}, {Name: "c"},
		{Name: "c", MACs: []string{"nonsense"}}, {Name: "c", MACs: []string{mac2}, Choices: Choices{FixedAddress: "fe80::1"}},
	} {
		if _, err := inv.Enroll(bad, time.Hour, nil); err == nil {
			t.Errorf("enrolled %+v", bad)
		}
	}
}

func TestInstalledIsNotEnrolledAgain(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	install(t, inv, "alpha")
	_, err := inv.Enroll(Host{Name: "alpha", MACs: []string{mac1}}, time.Hour, nil)
	if err == nil || !strings.Contains(err.Error(), "provision reinstall alpha") {
		t.Errorf("an installed host was enrolled again: %v", err)
	}
	if _, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, ""); !errors.Is(err, ErrRefused) {
		t.Errorf("an installed host was booted: %v", err)
	}
	if err := inv.Purge("alpha"); err != nil {
		t.Fatal(err)
	}
	enroll(t, inv, "alpha", mac1)
}

// install takes a host through the whole table.
func install(t testing.TB, inv *Inventory, name string) {
	t.Helper()
	h, err := inv.BeginBoot(name, Boot{Expires: noon.Add(time.Hour)}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.9", File: "initrd", Whole: true}); err != nil {
		t.Fatal(err)
	}
	for _, ev := range []Event{
		{Kind: EventContacted, Address: "10.0.0.9", Boot: &Boot{Token: h.Boot.Token}}, {Kind: EventBurned, Disks: []Disk{{Device: "/dev/vda"}}},
		{Kind: EventFinished, Phase: PhaseDisks, Layout: "x"}, {Kind: EventRebooted}, {Kind: EventProved, Message: "it answers"},
	} {
		if h, err = inv.Apply(name, ev); err != nil {
			t.Fatalf("%s: %v", ev.Kind, err)
		}
	}
	if h.State != StateInstalled {
		t.Fatal(h.State)
	}
}

// TestAnotherMachineIsMeant: after a wrong MAC was corrected, nothing of the
// wrong machine's boot is left that an install could go on with.
func TestAnotherMachineIsMeant(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	if _, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "uuid-1"); err != nil {
		t.Fatal(err)
	}
	cancel := func() {
		t.Helper()
		if _, err := inv.Apply("alpha", Event{Kind: EventCancelled}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	same := enroll(t, inv, "alpha", mac1)
	if same.Boot.Token == "" || same.Machine != "" {
		t.Errorf("the same machine: boot %q, bound to %q", same.Boot.Token, same.Machine)
	}
	cancel()
	if other := enroll(t, inv, "alpha", mac2); other.Boot.Token != "" || other.Address != "" {
		t.Errorf("another machine: %+v at %s", other.Boot, other.Address)
	}
}

// TestMachinesWordsAreBounded: of a message and of an error the start and the end are kept, and too many facts are
// refused.
func TestMachinesWordsAreBounded(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	h, err := inv.Apply("alpha", Event{Kind: EventFailed, Message: "mkfs: " + strings.Repeat("x", 1<<20) + " no space"})
	if err != nil {
		t.Fatal(err)
	}
	events, err := inv.Events("alpha", h.LastEvent-1)
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	for _, kept := range []string{h.Error, events[0].Message} {
		if len(kept) > MaxMessage+100 || !strings.HasPrefix(kept, "mkfs: x") || !strings.HasSuffix(kept, "x no space") {
			t.Errorf("%d bytes are kept: %.20q", len(kept), kept)
		}
	}
	if err := inv.SetFacts("alpha", make([]byte, MaxFacts+1)); err == nil || !strings.Contains(err.Error(), "alpha") {
		t.Errorf("too many facts: %v", err)
	}
	// Nothing is kept of a host that was forgotten while its machine was asked.
	if err := inv.SetFacts("gone", []byte("{}")); !errors.Is(err, ErrNotFound) {
		t.Errorf("facts of a host that there is not: %v", err)
	}
	if err := inv.SetJournal("gone", "lost"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the journal of a host that there is not: %v", err)
	}
}

func TestBootTokenIsForOneClientOnce(t *testing.T) {
	inv, _, clk := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	begin := func() string {
		t.Helper()
		h, err := inv.BeginBoot("alpha", Boot{Expires: clk.Now().Add(time.Minute)}, "")
		if err != nil {
			t.Fatal(err)
		}
		return h.Boot.Token
	}
	use := func(token, client string, whole bool) error {
		_, err := inv.UseBoot(token, Fetch{Client: client, File: "file", Whole: whole})
		return err
	}
	first := begin()
	if err := use(first, "10.0.0.9", false); err != nil {
		t.Error(err)
	}
	if err := use(first, "10.0.0.8", false); !errors.Is(err, ErrRefused) {
		t.Errorf("another address: %v", err)
	}
	if err := use(first, "10.0.0.9", true); err != nil {
		t.Error(err)
	}
	if err := use(first, "10.0.0.9", false); !errors.Is(err, ErrRefused) {
		t.Errorf("a used token: %v", err)
	}
	second := begin()
	if err := use(first, "10.0.0.9", false); !errors.Is(err, ErrRefused) {
		t.Errorf("the token of an earlier boot: %v", err)
	}
	clk.add(2 * time.Minute)
	if err := use(second, "10.0.0.9", false); !errors.Is(err, ErrRefused) {
		t.Errorf("an expired token: %v", err)
	}
	if err := use("00", "10.0.0.9", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("a made-up token: %v", err)
	}
	for range 10 {
		begin()
	}
	if err := use(first, "10.0.0.9", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("old tokens are kept for ever: %v", err)
	}
}

func TestBootTokenRace(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	h, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "")
	if err != nil {
		t.Fatal(err)
	}
	var won sync.Map
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			client := fmt.Sprintf("10.0.0.%d", i)
			if _, err := inv.UseBoot(h.Boot.Token, Fetch{Client: client, File: "file"}); err == nil {
				won.Store(client, true)
			}
		})
	}
	wg.Wait()
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d addresses share one boot", n)
	}
}

func TestEventsAreBounded(t *testing.T) {
	inv, db, clk := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	for i := range MaxEvents + 50 {
		clk.add(time.Minute)
		if _, err := inv.Apply("alpha", Event{Kind: EventStarted, Phase: PhaseCopy, Message: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if _, err := inv.Apply("alpha", Event{Kind: EventAdvanced, Phase: PhaseCopy, Progress: &Progress{Done: int64(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	events, err := inv.Events("alpha", 0)
	if err != nil || len(events) > MaxEvents || len(events) <= MaxEvents-eventsAtOnce {
		t.Fatalf("%d events, %v", len(events), err)
	}
	if last := events[len(events)-1]; last.Message != fmt.Sprint(MaxEvents+49) || last.Number != MaxEvents+51 {
		t.Errorf("the newest event is %+v", last)
	}
	if recs, _ := db.List(t.Context(), "event/", ""); len(recs) != len(events) {
		t.Errorf("%d events in the store", len(recs))
	}
	some, _ := inv.Events("alpha", MaxEvents+49)
	if len(some) != 2 {
		t.Errorf("%d events after number %d", len(some), MaxEvents+49)
	}
}

func TestNotesDoNotFlood(t *testing.T) {
	inv, _, clk := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	note := func(m string) {
		if _, err := inv.Apply("alpha", Event{Kind: EventNote, Message: m}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		note("the same")
	}
	for i := range 100 {
		note(fmt.Sprint("different ", i))
	}
	events, _ := inv.Events("alpha", 1)
	if len(events) != 10 {
		t.Errorf("200 notes in one moment left %d events", len(events))
	}
	clk.add(11 * time.Minute)
	note("the same")
	if events, _ := inv.Events("alpha", 1); len(events) != 11 {
		t.Error("a note ten minutes later was dropped")
	}
}

func TestDiscoveredIsBounded(t *testing.T) {
	dir := t.TempDir()
	inv, db, clk := open(t, dir)
	for i := range MaxDiscovered + 5 {
		clk.add(time.Second)
		inv.See(Discovered{MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), Vendor: "PXEClient"})
	}
	clk.add(time.Second)
	inv.See(Discovered{MAC: "52:54:00:00:00:05"}) // again
	all := inv.Discovered()
	if len(all) != MaxDiscovered || all[0].MAC != "52:54:00:00:00:05" || all[0].Vendor != "PXEClient" || !all[0].Last.After(all[0].First) {
		t.Fatalf("%d machines, newest %+v", len(all), all[0])
	}
	for _, d := range all {
		if d.MAC == "52:54:00:00:00:04" {
			t.Error("the oldest was kept")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := inv.Run(ctx); err != nil { // saves at the end
		t.Fatal(err)
	}
	db.Close()
	inv, _, _ = open(t, dir)
	if again := inv.Discovered(); len(again) != MaxDiscovered || again[0].MAC != all[0].MAC {
		t.Errorf("%d machines after a restart", len(again))
	}
	enroll(t, inv, "alpha", "52:54:00:00:00:05")
	if again := inv.Discovered(); again[0].MAC == "52:54:00:00:00:05" {
		t.Error("an enrolled machine is still listed as discovered")
	}
}

func TestSecretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	const passphrase = "correct horse battery staple"
	_, err := inv.Enroll(Host{Name: "alpha", MACs: []string{mac1}}, time.Hour, map[string][]byte{SecretDisk("/tmp/key"): []byte(passphrase)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := inv.Secret("alpha", SecretDisk("/tmp/key"))
	if err != nil || string(got) != passphrase {
		t.Errorf("%q, %v", got, err)
	}
	host, err := inv.Secret("alpha", SecretHostKey)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	data, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(passphrase)) || bytes.Contains(data, host[40:80]) {
		t.Error("a secret is in the store in the clear")
	}
	for _, name := range []string{"state.db", "secrets.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	inv, db, _ = open(t, dir)
	if err := inv.Purge("alpha"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"host/", "mac/", "event/", "secret/", "boot/", "facts/", "forgotten/", "aside/"} {
		if recs, _ := db.List(t.Context(), prefix, ""); len(recs) > 0 {
			t.Errorf("%s is left of a forgotten host", recs[0].Key)
		}
	}
}

func TestWatch(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	names := inv.Watch(ctx)
	enroll(t, inv, "alpha", mac1)
	if n := <-names; n != "alpha" {
		t.Error(n)
	}
	for range 100 { // a slow reader
		if _, err := inv.Apply("alpha", Event{Kind: EventStarted, Phase: PhaseCopy}); err != nil {
			t.Fatal(err)
		}
	}
	enroll(t, inv, "bravo", mac2)
	seen := make(map[string]int)
	for seen["bravo"] == 0 {
		seen[<-names]++
	}
	if seen["alpha"] == 0 || seen["alpha"] > 3 {
		t.Errorf("100 changes of alpha were told %d times", seen["alpha"])
	}
	cancel()
	for range names { // until it closes
	}
}

// TestKill kills a process that applies events, in the middle of it: each
// event that it had acknowledged must be there.
func TestKill(t *testing.T) {
	if dir := os.Getenv("HOSTS_KILL_DIR"); dir != "" {
		inv, _, _ := open(t, dir)
		for i := 0; ; i++ {
			h, err := inv.Apply("alpha", Event{Kind: EventStarted, Phase: PhaseCopy, Message: fmt.Sprint(i)})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("ack %d\n", h.LastEvent)
		}
	}
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	enroll(t, inv, "alpha", mac1)
	db.Close()
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
		cmd.Env = append(os.Environ(), "HOSTS_KILL_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var last uint64
		buf := make([]byte, 1<<16)
		said := ""
		for strings.Count(said, "ack ") < 40+round*7 {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("the child ended: %v: %s", err, said)
			}
			said += string(buf[:n])
		}
		cmd.Process.Kill()
		for { // what it acknowledged before it died
			n, err := out.Read(buf)
			said += string(buf[:n])
			if err != nil {
				break
			}
		}
		cmd.Wait()
		for line := range strings.Lines(said) {
			if strings.HasSuffix(line, "\n") {
				fmt.Sscanf(line, "ack %d", &last)
			}
		}
		inv, db, _ := open(t, dir)
		h, err := inv.Get("alpha")
		if err != nil || h.LastEvent < last {
			t.Fatalf("acknowledged event %d, kept %d, %v", last, h.LastEvent, err)
		}
		events, err := inv.Events("alpha", last-1)
		if err != nil || len(events) == 0 || events[0].Number != last {
			t.Fatalf("event %d is lost: %v, %v", last, events, err)
		}
		db.Close()
	}
}
