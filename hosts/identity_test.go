package hosts

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// What the real ssh-to-age (github.com/Mic92/ssh-to-age, commit 2643a7f) made of
// keys of ssh-keygen: the recipient of the public half, the identity of the
// private one.
var golden = []struct{ private, public, recipient, identity string }{{
	`-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACDtpH45DQMy6AAeJ92Qa8R0ouxExDFdh3cee/ho8xNfLgAAAJDADboJwA26
CQAAAAtzc2gtZWQyNTUxOQAAACDtpH45DQMy6AAeJ92Qa8R0ouxExDFdh3cee/ho8xNfLg
AAAEB/SjDf94H4ikDSpAW90Uf0DLMzkOzmOcIwWOizMjyZTu2kfjkNAzLoAB4n3ZBrxHSi
7ETEMV2Hdx57+GjzE18uAAAADHJvb3RAZ29sZGVuMQE=
-----END OPENSSH PRIVATE KEY-----
`,
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO2kfjkNAzLoAB4n3ZBrxHSi7ETEMV2Hdx57+GjzE18u",
	"age17wg56vjglxvl8mshkmqgew92kqse7as0eav8ujgw83gumupkgssszj8l6q",
	"AGE-SECRET-KEY-10CW52W9EAMTMHXHCS6WWWKLPA4SLQY74LCV8LA762T2VJFD78VJS5M2W47",
}, {
	`-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACDWgwM5rQvSK+kbzTmkbwCi/5SfylfD4wDLNEhoWB/tsQAAAJA1jc3LNY3N
ywAAAAtzc2gtZWQyNTUxOQAAACDWgwM5rQvSK+kbzTmkbwCi/5SfylfD4wDLNEhoWB/tsQ
AAAECASXk5hVV7O1FoEn3r0XTGMX/JnQxA5udCOI90wy4EqdaDAzmtC9Ir6RvNOaRvAKL/
lJ/KV8PjAMs0SGhYH+2xAAAADHJvb3RAZ29sZGVuMgE=
-----END OPENSSH PRIVATE KEY-----
`,
	"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINaDAzmtC9Ir6RvNOaRvAKL/lJ/KV8PjAMs0SGhYH+2x",
	"age16ldjz2jqpkfak62crd369xwq0xzq9y3dktzf82mxfveq27q7k53q6enajx",
	"AGE-SECRET-KEY-1X095SDMMHMCKAGAJGSD3R8CP965EU2YFHPZ6ZTZ8X7YPM6KUZV5SGJHEZY",
}}

// TestAgeRecipient: what is encrypted to the recipient of a host's public key
// is decrypted with the identity that ssh-to-age derives from its private key.
func TestAgeRecipient(t *testing.T) {
	for _, g := range golden {
		public, _, err := ParseHostKey([]byte(g.private))
		if err != nil || public != g.public {
			t.Fatalf("%q, %v", public, err)
		}
		got, err := AgeRecipient(public + " a comment")
		if err != nil || got != g.recipient {
			t.Errorf("%s: %s, %v; want %s", public, got, err, g.recipient)
		}
		to, err := age.ParseX25519Recipient(got)
		if err != nil {
			t.Fatal(err)
		}
		with, err := age.ParseX25519Identity(g.identity)
		if err != nil {
			t.Fatal(err)
		}
		var sealed bytes.Buffer
		w, err := age.Encrypt(&sealed, to)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "for this host")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r, err := age.Decrypt(&sealed, with)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := io.ReadAll(r); err != nil || string(plain) != "for this host" {
			t.Errorf("%q, %v", plain, err)
		}
	}
}

func keygen(t *testing.T, args ...string) (private, public []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	private, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if public, err = os.ReadFile(file + ".pub"); err != nil {
		t.Fatal(err)
	}
	return private, public
}

func TestParseHostKey(t *testing.T) {
	good, public := keygen(t, "-t", "ed25519", "-N", "")
	bare := bytes.TrimRight(good, "\n")
	if _, private, err := ParseHostKey(bytes.ReplaceAll(bare, []byte("\n"), []byte("\r\n"))); err != nil || !bytes.HasSuffix(private, []byte("KEY-----\n")) || bytes.Contains(private, []byte("\r")) {
		t.Errorf("a key from Windows, without its last newline: %v\n%q", err, private)
	}
	rsa, _ := keygen(t, "-t", "rsa", "-N", "")
	oldRSA, _ := keygen(t, "-t", "rsa", "-m", "PEM", "-N", "")
	ecdsa, _ := keygen(t, "-t", "ecdsa", "-N", "")
	locked, _ := keygen(t, "-t", "ed25519", "-N", "hush")
	block, _ := pem.Decode(good)
	block.Bytes = block.Bytes[:100]
	damaged := pem.EncodeToMemory(block)
	for want, data := range map[string][]byte{
		"it is a public key":              public,
		"it is a ssh-rsa key":             rsa,
		"it is a rsa private key":         oldRSA,
		"it is a ecdsa-sha2-nistp256 key": ecdsa,
		"it is encrypted":                 locked,
		"it is a damaged":                 damaged,
		"it is no OpenSSH private key":    []byte("nonsense"),
	} {
		if _, _, err := ParseHostKey(data); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// TestIdentity: a key that was made before the host was enrolled is the host's.
func TestIdentity(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	if _, err := inv.Identity("alpha"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "provision host-key alpha --make") {
		t.Errorf("of an unknown host: %v", err)
	}
	if _, err := inv.MakeIdentity("-server"); err == nil {
		t.Error("made a key for -server")
	}
	made, err := inv.MakeIdentity("alpha")
	if err != nil {
		t.Fatal(err)
	}
	again, err := inv.MakeIdentity("alpha")
	if err != nil || again != made {
		t.Errorf("made another: %s, %v", again, err)
	}
	if h := enroll(t, inv, "alpha", mac1); h.HostKey != made {
		t.Errorf("enrolled with %s, want %s", h.HostKey, made)
	}
	if got, err := inv.Identity("alpha"); err != nil || got != made {
		t.Errorf("%s, %v", got, err)
	}
	public, writes, err := inv.newIdentity("alpha")
	if err != nil || public == made || len(writes) != 1 {
		t.Errorf("a new one: %s, %d writes, %v", public, len(writes), err)
	}

	if _, err := inv.MakeIdentity("bravo"); err != nil {
		t.Fatal(err)
	}
	if err := inv.Purge("bravo"); err != nil {
		t.Error(err)
	}
	if _, err := inv.Identity("bravo"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after forget: %v", err)
	}
	if err := inv.Purge("bravo"); !errors.Is(err, ErrNotFound) {
		t.Errorf("forgotten twice: %v", err)
	}
}
