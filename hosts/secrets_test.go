package hosts

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

func TestPassphrase(t *testing.T) {
	form := regexp.MustCompile(`^([bcdefghjklnrstuv]{4} ){7}[bcdefghjklnrstuv]{4}$`)
	letters := make(map[byte]int)
	for range 1000 {
		p := NewPassphrase()
		if !form.Match(p) {
			t.Fatalf("%q", p)
		}
		for _, c := range p {
			letters[c]++
		}
	}
	// 32,000 letters, 2,000 of each expected; 5 standard deviations are 217.
	for _, c := range []byte(passphraseLetters) {
		if n := letters[c]; n < 1783 || n > 2217 {
			t.Errorf("%c came %d times", c, n)
		}
	}
}

func TestRecipients(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, ed := keygen(t, "-t", "ed25519", "-N", "")
	private, rsa := keygen(t, "-t", "rsa", "-N", "")
	_, weak := keygen(t, "-t", "rsa", "-b", "1024", "-N", "")
	_, ecdsa := keygen(t, "-t", "ecdsa", "-N", "")
	pq, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	const sk = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIFsIIHnvJTZMQRO7Z6dXmVWkWhCPJ+FzDRJLoxsXDkQqAAAABHNzaDo= k"
	file := filepath.Join(t.TempDir(), "operators")
	write := func(text string) string {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	all, err := ReadRecipients(write("# us\n\n" + id.Recipient().String() + "\n" + string(ed) + string(rsa)))
	if err != nil || len(all) != 3 {
		t.Errorf("%q, %v", all, err)
	}
	for _, tt := range []struct{ arg, want string }{
		{string(ecdsa), "key of type ecdsa-sha2-nistp256"},
		{sk, "key of type sk-ssh-ed25519@openssh.com"},
		{string(weak), "2048 bits"},
		{id.String(), "an age identity, which is private"},
		{strings.ToLower(id.String()), "an age identity, which is private"},
		{string(private), "this is a private key"},
		{"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "X.509"},
		{pq.Recipient().String(), "not supported"},
		{"age1yubikey1qwertz", "needs an age plugin"},
		{id.Recipient().String()[:40], "not whole"},
		{"/nowhere/at/all", "no such file"},
		{write("# nobody\n"), "no recipient"},
	} {
		_, err := ReadRecipients(tt.arg)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.20s: %v; want %q", tt.arg, err, tt.want)
		}
	}
	for want, text := range map[string]string{
		"line 2: escrow: age cannot": string(ed) + string(ecdsa),
		"this is a private key":      string(private),
		"line 1: escrow: this is an": id.String(),
	} {
		_, err := ReadRecipients(write(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), id.String()[20:]) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestEscrow: a generated passphrase is opened by each operator's key, is the
// one that the disk got, and is the server's no more once the host is installed.
func TestEscrow(t *testing.T) {
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	private, public := keygen(t, "-t", "rsa", "-N", "")
	rsa, err := agessh.ParseIdentity(private)
	if err != nil {
		t.Fatal(err)
	}
	const made, given = "/tmp/disk.key", "/tmp/data.key"
	host := Host{
		Name:      "bravo",
		MACs:      []string{mac1},
		DiskKeys:  []string{given, made},
		Generated: []string{made},
		Choices:   Choices{EscrowTo: []string{id.Recipient().String(), strings.TrimSpace(string(public))}},
	}
	secrets := map[string][]byte{SecretDisk(given): []byte("the owner's own")}
	lonely := host
	lonely.EscrowTo = nil
	if _, err := inv.Enroll(lonely, time.Hour, secrets); err == nil || !strings.Contains(err.Error(), "--escrow-to") {
		t.Errorf("generated for nobody: %v", err)
	}
	reveal := func() map[string]string {
		t.Helper()
		all, err := inv.Reveal("bravo", "root (uid 0)")
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, e := range all {
			var plain [2][]byte
			for i, with := range []age.Identity{id, rsa} {
				if plain[i], err = OpenEscrow(e.Armor, with); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(plain[0], plain[1]) {
				t.Errorf("%s: the operators read different things", e.Path)
			}
			if e.Previous {
				e.Path += " previous"
			}
			got[e.Path] = string(plain[0])
		}
		return got
	}
	h, err := inv.Enroll(host, time.Hour, secrets)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := inv.Secret("bravo", SecretDisk(made))
	if err != nil {
		t.Fatal(err)
	}
	first := reveal()
	if len(first) != 2 || first[made] != string(sealed) || first[given] != "the owner's own" {
		t.Errorf("%q; the disk gets %q", first, sealed)
	}
	events, err := inv.Events("bravo", 0)
	if err != nil {
		t.Fatal(err)
	}
	last := events[len(events)-1]
	if last.Kind != EventRevealed || last.State != StateReady || last.Message != "root (uid 0) was given the escrowed disk keys, encrypted: /tmp/data.key, /tmp/disk.key" {
		t.Errorf("%+v", last)
	}
	// Enrolled again before it was installed, the passphrase stays: the disk may have it.
	if h, err = inv.Enroll(host, time.Hour, secrets); err != nil {
		t.Fatal(err)
	}
	if again := reveal(); again[made] != first[made] {
		t.Error("enrolled again, the passphrase changed")
	}
	install(t, inv, h.Name)
	if _, err := inv.Secret("bravo", SecretDisk(made)); !errors.Is(err, ErrNotFound) {
		t.Errorf("the server's copy: %v", err)
	}
	if _, err := inv.Secret("bravo", SecretDisk(given)); err != nil {
		t.Errorf("the given key: %v", err)
	}
	if after := reveal(); len(after) != 2 || after[made] != first[made] {
		t.Errorf("after the install: %q", after)
	}
	// Installed again, it gets another; what is not given again is as it was.
	again := host
	if _, err = inv.Reinstall(again, time.Hour, nil, false); err != nil {
		t.Fatal(err)
	}
	second := reveal()
	if second[made] == first[made] || second[made+" previous"] != first[made] || second[given] != "the owner's own" {
		t.Errorf("after a reinstall: %q", second)
	}
	if _, err := inv.Apply("bravo", Event{Kind: EventCancelled}); err != nil {
		t.Fatal(err)
	}
	if back := reveal(); len(back) != 2 || back[made] != first[made] {
		t.Errorf("after it was cancelled: %q", back)
	}
	if _, err := inv.Secret("bravo", SecretDisk(made)); !errors.Is(err, ErrNotFound) {
		t.Errorf("what was made for nothing: %v", err)
	}
	if h, err = inv.Reinstall(again, time.Hour, nil, false); err != nil {
		t.Fatal(err)
	}
	second = reveal()
	install(t, inv, "bravo")
	if now := reveal(); len(now) != 2 || now[made] != second[made] || now[made] == first[made] {
		t.Errorf("after the second install: %q", now)
	}
	if missing, err := inv.missing(h, nil); err != nil || len(missing) > 0 {
		t.Errorf("missing: %q, %v", missing, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{first[made], second[made], "the owner's own"} {
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%q is in the store in the clear", secret)
		}
	}
	if err := inv.Purge("bravo"); err != nil {
		t.Fatal(err)
	}
	if recs, err := db.List(t.Context(), escrowPrefix("bravo"), ""); err != nil || len(recs) > 0 {
		t.Errorf("after forget there is %d in escrow, %v", len(recs), err)
	}
}

// TestSecretFiles: they are the server's until the host is installed, or for
// good with --keep.
func TestSecretFiles(t *testing.T) {
	for _, keep := range []bool{false, true} {
		inv, _, _ := open(t, t.TempDir())
		host := Host{Name: "alpha", MACs: []string{mac1}, Choices: Choices{KeepSecrets: keep,
			Secrets: []SecretFile{{"/var/lib/a", "0400"}, {"/var/lib/b", "0640"}}}}
		if _, err := inv.Enroll(host, time.Hour, map[string][]byte{SecretContent("/var/lib/a"): []byte("A"), SecretContent("/var/lib/b"): []byte("B")}); err != nil {
			t.Fatal(err)
		}
		host.Secrets = host.Secrets[:1]
		h, err := inv.Enroll(host, time.Hour, map[string][]byte{SecretContent("/var/lib/a"): []byte("A2")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := inv.Secret("alpha", SecretContent("/var/lib/b")); !errors.Is(err, ErrNotFound) {
			t.Errorf("enrolled without b: %v", err)
		}
		if got, err := inv.Secret("alpha", SecretContent("/var/lib/a")); err != nil || string(got) != "A2" {
			t.Errorf("%q, %v", got, err)
		}
		install(t, inv, h.Name)
		missing, err := inv.missing(h, nil)
		want := "--secret /var/lib/a=FILE:0400"
		if keep {
			want = ""
		}
		if got := strings.Join(missing, " "); err != nil || got != want {
			t.Errorf("keep %v: missing %q, %v", keep, got, err)
		}
		_, err = inv.Reinstall(h, time.Hour, nil, false)
		if keep != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("keep %v: installed again: %v", keep, err)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, o := range []Choices{
		{Secrets: []SecretFile{{"relative", "0400"}}},
		{Secrets: []SecretFile{{"/a/../../b", "0400"}}},
		{Secrets: []SecretFile{{"/a/", "0400"}}},
		{Secrets: []SecretFile{{"/a\nb", "0400"}}},
		{Secrets: []SecretFile{{"/nix/store/x", "0400"}}},
		{Secrets: []SecretFile{{"/run/x", "0400"}}},
		{Secrets: []SecretFile{{"/x", "4755"}}},
		{Secrets: []SecretFile{{"/x", "rw"}}},
		{Secrets: []SecretFile{{"/x", "0400"}, {"/x", "0400"}}},
		{Secrets: []SecretFile{{"/etc/ssh/ssh_host_ed25519_key", "0400"}}},
		{Chown: []Chown{{"/", 1, 1}}},
		{Chown: []Chown{{"/nix", 1, 1}}},
		{Chown: []Chown{{"/home/../etc", 1, 1}}},
		{Chown: []Chown{{"/home/x", 1<<32 - 1, 1}}},
	} {
		if err := o.Check(); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	o := Choices{Secrets: []SecretFile{{"/nix/persist/key", "0400"}, {"/runway", "640"}}, Chown: []Chown{{"/home/x", 0, 100}}}
	if err := o.Check(); err != nil {
		t.Error(err)
	}
}
