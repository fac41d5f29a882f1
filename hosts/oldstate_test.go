package hosts

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"provision/internal/store"
)

// TestOldState: a state folder that version f4d6123 wrote, with a host in every state, escrow, secrets and leases, is
// opened and listed, and an install in it goes on.
func TestOldState(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "tar", "-xzf", "testdata/state-f4d6123.tar.gz", "-C", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	inv, db, _ := open(t, dir)
	if db.Found.Format != 1 || len(db.Found.Damaged) > 0 {
		t.Errorf("%+v", db.Found)
	}

	all, err := inv.List()
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[string]State)
	for _, h := range all {
		states[h.Name] = h.State
	}
	want := map[string]State{
		"ready":      StateReady,
		"booting":    StateBooting,
		"live":       StateLive,
		"rehearsed":  StateRehearsed,
		"installing": StateInstalling,
		"rebooting":  StateRebooting,
		"installed":  StateInstalled,
		"failed":     StateFailed,
		"cancelled":  StateFailed,
	}
	if !reflect.DeepEqual(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	if seen := inv.Discovered(); len(seen) != 1 || seen[0].Board != "pc" {
		t.Errorf("discovered %+v", seen)
	}

	h, err := inv.Get("installing")
	if err != nil {
		t.Fatal(err)
	}
	recipient := h.EscrowTo[0]
	chose := Choices{
		Image:             "nixos",
		Board:             "pc",
		FixedAddress:      "10.0.0.7",
		BootMethod:        Method{Offer: OfferFirst, Program: DriverNative},
		Disko:             Fresh,
		Preset:            "luks-ext4",
		Hardware:          Hardware{Tool: Facter, Path: "hosts/installing/facter.json"},
		BuildOn:           BuildServer,
		CopyOver:          CopySSH,
		TargetSubstitutes: true,
		Disks:             map[string]string{"main": "largest"},
		Wipe:              []string{"S1"},
		PiConfig:          []string{"dtparam=x"},
		AllowEEPROM:       true,
		TPM2:              "7",
		EscrowTo:          []string{recipient},
		Secrets:           []SecretFile{{"/var/lib/a", "0400"}},
		KeepSecrets:       true,
		Chown:             []Chown{{"/home/ada", 1000, 100}},
	}
	if !reflect.DeepEqual(h.Choices, chose) || h.DiskKeys[0] != "/tmp/disk.key" || h.Generated[0] != "/tmp/disk.key" {
		t.Errorf("chosen was %+v, want %+v", h.Choices, chose)
	}
	if secret, err := inv.Secret("installing", SecretContent("/var/lib/a")); err != nil || string(secret) != "A" {
		t.Errorf("its secret is %q, %v", secret, err)
	}
	key, err := inv.Secret("installing", SecretDisk("/tmp/disk.key"))
	if err != nil {
		t.Fatal(err)
	}
	if got := revealed(t, inv, dir); got != string(key) {
		t.Errorf("in escrow is %q, and it is %q", got, key)
	}

	for _, ev := range []Event{
		{Kind: EventFinished, Phase: PhaseCopy},
		{Kind: EventFinished, Phase: PhaseBootloader},
		{Kind: EventRebooted},
		{Kind: EventProved, Message: "it answers"},
	} {
		if h, err = inv.Apply("installing", ev); err != nil {
			t.Fatalf("%s: %v", ev.Kind, err)
		}
	}
	if h.State != StateInstalled || h.Permit.Live(noon) {
		t.Errorf("%s, %+v", h.State, h.Permit)
	}
	if _, err := inv.BeginBoot("ready", Boot{Expires: noon.Add(time.Hour)}, ""); err != nil {
		t.Error(err)
	}

	leases, err := store.OpenJournal(filepath.Join(dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	defer leases.Close()
	if recs, err := leases.List(t.Context(), "lease/", ""); err != nil || len(recs) != 1 || recs[0].Key != "lease/10.0.0.9" {
		t.Errorf("leases %v, %v", recs, err)
	}
}

// revealed is the only key in escrow of the host, read with the operator's key in the folder.
func revealed(t *testing.T, inv *Inventory, dir string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := inv.Reveal("installing", "a test")
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(all[0].Armor)), id)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}
