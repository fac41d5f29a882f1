package hosts

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"provision/internal/store"
)

// Escrow is a disk key that is encrypted to the operators. Only their keys open it, the server's does not.
type Escrow struct {
	Path     string `json:"path"`     // from which the layout reads the key
	Previous bool   `json:"previous"` // of the install before, in case the disks still have it
	Armor    string `json:"armor"`    // the key encrypted with age, ASCII-armored
}

// escrowPrefix begins the store keys of a host's escrow.
func escrowPrefix(name string) string { return "escrow/" + name + "/" }

const previous = "previous:" // precedes the secret's name in the keys of the install before

// passphraseLetters are on the same keys of QWERTY, QWERTZ and AZERTY keyboards, national variants included: a machine
// that asks for its passphrase often assumes another keyboard layout than the one that is attached. It leaves out a, q,
// w, z, y and m, which differ between these, i (dotless in Turkish), and o, p and x, so that 16 letters remain. The
// space bar is the same everywhere; digits and dashes are not.
const passphraseLetters = "bcdefghjklnrstuv"

// NewPassphrase returns a passphrase of 128 random bits that a person can type: eight groups of four letters, separated
// by spaces.
func NewPassphrase() []byte {
	random := make([]byte, 32)
	rand.Read(random) // never fails, see crypto/rand
	var out []byte
	for i, r := range random {
		if i > 0 && i%4 == 0 {
			out = append(out, ' ')
		}
		out = append(out, passphraseLetters[r%16])
	}
	return out
}

// ReadRecipients returns the recipients in the value of --escrow-to, which is either a recipient or the name of a file
// with one on each line, as for age's -R. Comments (#) and empty lines are skipped. A file without recipients is an
// error.
func ReadRecipients(arg string) ([]string, error) {
	if _, err := ParseRecipient(arg); err == nil {
		return []string{strings.TrimSpace(arg)}, nil
	} else if looksLikeKey(arg) {
		return nil, err
	}
	data, err := os.ReadFile(arg)
	if err != nil {
		return nil, fmt.Errorf("%w; give an age1… or ssh-… public key, or a file of such lines", err)
	}

	if strings.Contains(string(data), "-----BEGIN") {
		_, err := ParseRecipient(strings.TrimSpace(string(data)))
		return nil, fmt.Errorf("%s: %w", arg, err)
	}
	var all []string
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := ParseRecipient(line); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", arg, n, err)
		}
		all = append(all, line)
	}

	if len(all) == 0 {
		return nil, fmt.Errorf("%s: there is no recipient in it", arg)
	}
	return all, nil
}

// looksLikeKey reports whether s is meant as a key, valid or not, rather than as the name of a file.
func looksLikeKey(s string) bool {
	for _, prefix := range []string{"age1", "AGE-", "ssh-", "ecdsa-", "sk-", "-----BEGIN"} {
		if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
			_, err := os.Stat(s)
			return err != nil
		}
	}
	return false
}

// ParseRecipient reads an operator's public key: age1…, ssh-ed25519 or ssh-rsa. The error does not repeat the input,
// which may be a private key by mistake.
func ParseRecipient(s string) (age.Recipient, error) {
	s = strings.TrimSpace(s)
	upper := strings.ToUpper(s)
	switch {
	case strings.HasPrefix(upper, "AGE-SECRET-KEY-"), strings.HasPrefix(upper, "AGE-PLUGIN-"):
		return nil, errors.New("escrow: this is an age identity, which is private; give its public half, the age1… " +
			"that `age-keygen -y FILE` prints")
	case strings.HasPrefix(s, "-----BEGIN") && strings.Contains(s, "PRIVATE KEY-----"):
		return nil, errors.New("escrow: this is a private key; give its public half, the file with .pub")
	case strings.HasPrefix(s, "-----BEGIN"):
		return nil, errors.New("escrow: this is X.509 or PEM, which age cannot encrypt to; give an age1…, " +
			"ssh-ed25519 or ssh-rsa public key")
	case strings.HasPrefix(s, "age1pq1"):
		return nil, errors.New("escrow: age1pq1… keys are not supported; give an X25519 one, as `age-keygen` makes it")
	case strings.HasPrefix(s, "age1") && strings.LastIndex(s, "1") > len("age"):
		return nil, errors.New("escrow: this recipient needs an age plugin, which the server does not run; give an " +
			"age1…, ssh-ed25519 or ssh-rsa public key")
	case strings.HasPrefix(s, "age1"):
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, errors.New("escrow: this age1… key is not whole: was all of it copied?")
		}
		return r, nil
	}

	return parseSSHRecipient(s)
}

// parseSSHRecipient reads an SSH public key that age can encrypt to.
func parseSSHRecipient(s string) (age.Recipient, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("escrow: this is no public key; give age1…, ssh-ed25519 or ssh-rsa")
	}
	if t := key.Type(); t != ssh.KeyAlgoED25519 && t != ssh.KeyAlgoRSA {
		return nil, fmt.Errorf("escrow: age cannot encrypt to a key of type %s; give an age1…, ssh-ed25519 or "+
			"ssh-rsa public key", t)
	}
	r, err := agessh.ParseRecipient(s)
	if err != nil {
		return nil, errors.New("escrow: age does not take this SSH key; RSA keys need 2048 bits at least")
	}
	return r, nil
}

// encryptTo encrypts plain to all recipients, ASCII-armored.
func encryptTo(recipients []string, plain []byte) ([]byte, error) {
	var to []age.Recipient
	for _, s := range recipients {
		r, err := ParseRecipient(s)
		if err != nil {
			return nil, err
		}
		to = append(to, r)
	}

	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}

	_, err = w.Write(plain)
	if err = errors.Join(err, w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}
	return out.Bytes(), nil
}

// OpenEscrow decrypts the Armor of an [Escrow]. The operator's machine calls it, as the server has none of the
// identities.
func OpenEscrow(armored string, with ...age.Identity) ([]byte, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(armored)), with...)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// escrow returns the writes that store these disk keys, by the names of their secrets, in the host's escrow. What is
// there becomes the previous escrow, unless it is the same: until the new disks are made, the old passphrases may be
// needed.
func (inv *Inventory) escrow(h *Host, keys map[string]diskKey) (writes []store.Write, err error) {
	prefix := escrowPrefix(h.Name)
	recs, err := inv.store.List(prefix, "")
	if err != nil {
		return nil, err
	}

	there := make(map[string][]byte)
	for _, rec := range recs {
		there[strings.TrimPrefix(rec.Key, prefix)] = rec.Value
	}
	for secret, value := range there {
		if strings.HasPrefix(secret, previous) || keys[secret].same {
			continue
		}
		if _, older := there[previous+secret]; !older {
			writes = append(writes, store.Put(prefix+previous+secret, value))
		}
		writes = append(writes, store.Delete(prefix+secret))
	}

	if len(h.EscrowTo) == 0 {
		return writes, nil
	}
	for secret, key := range keys {
		sealed, err := encryptTo(h.EscrowTo, key.plain)
		if err != nil {
			return nil, err
		}
		writes = append(writes, store.Put(prefix+secret, sealed))
	}

	return writes, nil
}

// Reveal returns what is in a host's escrow, still encrypted. Before it returns, an event records who asked. The error
// is ErrNotFound if the escrow is empty.
func (inv *Inventory) Reveal(name, who string) ([]Escrow, error) {
	prefix := escrowPrefix(name)
	recs, err := inv.store.List(prefix, "")
	if err != nil {
		return nil, err
	}

	if len(recs) == 0 {
		return nil, fmt.Errorf("escrow of %s: %w: it was enrolled without --escrow-to, or its layout reads no disk key", name, ErrNotFound)
	}
	var all []Escrow
	var names []string
	for _, rec := range recs {
		secret, old := strings.CutPrefix(strings.TrimPrefix(rec.Key, prefix), previous)
		e := Escrow{Path: strings.TrimPrefix(secret, diskSecret), Previous: old, Armor: string(rec.Value)}
		all = append(all, e)
		entry := e.Path
		if old {
			entry += " (of before)"
		}
		names = append(names, entry)
	}

	_, err = inv.Apply(name, Event{Kind: EventRevealed, Message: fmt.Sprintf("%s was given the escrowed disk keys, "+
		"encrypted: %s", who, strings.Join(names, ", "))})
	if err != nil {
		return nil, err
	}
	return all, nil
}
