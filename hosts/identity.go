package hosts

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"filippo.io/age/plugin"
	"filippo.io/edwards25519"
	"golang.org/x/crypto/ssh"

	"provision/internal/store"
)

// ParseHostKey reads an OpenSSH ed25519 private key that is to be a host's identity. It returns the public half in
// authorized_keys form, and the private key in the form that sshd wants in its file: without surrounding text, and with
// a newline at the end. The error says what the data is instead; it never contains any of it.
func ParseHostKey(data []byte) (public string, private []byte, err error) {
	block, _ := pem.Decode(data)
	if block == nil {
		if _, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
			return "", nil, errors.New("it is a public key; give the private one, the file without .pub")
		}
		return "", nil, errors.New("it is no OpenSSH private key; make one with `ssh-keygen -t ed25519 -N \"\" -f FILE`")
	}

	if block.Type != "OPENSSH PRIVATE KEY" {
		return "", nil, fmt.Errorf("it is a %s, not an OpenSSH ed25519 key; make one with `ssh-keygen -t ed25519 "+
			"-N \"\" -f FILE`", strings.ToLower(block.Type))
	}
	signer, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return "", nil, errors.New("it is encrypted, and a host must read its key alone; take the passphrase off " +
			"with `ssh-keygen -p -N \"\" -f FILE`")
	case err != nil:
		return "", nil, errors.New("it is a damaged OpenSSH private key")
	case signer.PublicKey().Type() != ssh.KeyAlgoED25519:
		return "", nil, fmt.Errorf("it is a %s key; make an ed25519 one with `ssh-keygen -t ed25519 -N \"\" -f FILE`", signer.PublicKey().Type())
	}

	return authorized(signer.PublicKey()), pem.EncodeToMemory(block), nil
}

// AgeRecipient returns the X25519 age recipient of an ed25519 SSH public key in authorized_keys form. As ssh-to-age
// does, it converts the point of the Edwards curve to its Montgomery form. Whoever has the private key can decrypt.
func AgeRecipient(public string) (string, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(public))
	if err != nil {
		return "", fmt.Errorf("read an SSH public key: %w", err)
	}
	raw, ok := key.(ssh.CryptoPublicKey)
	if !ok || key.Type() != ssh.KeyAlgoED25519 {
		return "", fmt.Errorf("a %s key has no age recipient; only ed25519 keys have", key.Type())
	}
	point, err := new(edwards25519.Point).SetBytes(raw.CryptoPublicKey().(ed25519.PublicKey))
	if err != nil {
		return "", fmt.Errorf("read an SSH public key: %w", err)
	}
	x, err := ecdh.X25519().NewPublicKey(point.BytesMontgomery())
	if err != nil {
		return "", fmt.Errorf("read an SSH public key: %w", err)
	}
	return plugin.EncodeX25519Recipient(x)
}

// Identity returns the public half of a host's SSH key in authorized_keys form: of an enrolled host, or of one for
// which MakeIdentity was called. The error is ErrNotFound if there is none.
func (inv *Inventory) Identity(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if h, err := inv.Get(name); err == nil {
		return h.HostKey, nil
	} else if !errors.Is(err, ErrNotFound) {
		return "", err
	}

	private, err := inv.Secret(name, SecretHostKey)
	if errors.Is(err, ErrNotFound) {
		return "", fmt.Errorf("host %s: %w, and no SSH key was made for it; `provision host-key %s --make` makes "+
			"one before it is enrolled", name, ErrNotFound, name)
	}
	if err != nil {
		return "", err
	}

	public, _, err := ParseHostKey(private)
	if err != nil {
		return "", fmt.Errorf("the SSH key of %s: %w", name, err)
	}
	return public, nil
}

// MakeIdentity returns the public half of the host's SSH key, and makes the key if there is none. A later Enroll uses
// it.
func (inv *Inventory) MakeIdentity(name string) (string, error) {
	for {
		public, err := inv.Identity(name)
		if !errors.Is(err, ErrNotFound) {
			return public, err
		}
		public, writes, err := inv.newIdentity(name)
		if err != nil {
			return "", err
		}
		err = inv.store.Commit([]store.Version{store.Absent(secretKey(name, SecretHostKey))}, writes)
		if !errors.Is(err, store.ErrConflict) {
			return public, err
		}
	}
}

// newIdentity makes a new SSH key for a host. The writes store it in place of the one that the host has; the caller
// must change Host.HostKey in the same transaction.
func (inv *Inventory) newIdentity(name string) (public string, writes []store.Write, err error) {
	public, private, err := NewKey("root@" + name)
	if err != nil {
		return "", nil, err
	}
	writes, err = inv.sealAll(name, map[string][]byte{SecretHostKey: private})
	return public, writes, err
}
