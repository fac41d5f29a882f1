package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"provision/internal/store"
)

// Vault encrypts secrets at rest with age. Its key is in a separate file that only the server's user can read, so a
// copy of the store alone reveals nothing.
type Vault struct{ identity *age.X25519Identity }

// errNoKey is the error for a key file with other contents.
var errNoKey = errors.New("it is not an age identity")

// OpenVault reads the key file at path, or makes it (mode 0600) if it does not exist.
func OpenVault(path string) (*Vault, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return newVault(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the store's key: %w", err)
	}
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("read the store's key %s: %w", path, errNoKey)
	}
	return &Vault{id}, nil
}

// newVault makes the key file at path.
func newVault(path string) (*Vault, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make the store's key: %w", err)
	}

	// The file is written under a temporary name and renamed, so that a crash leaves a whole key or none.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("make the store's key: %w", err)
	}
	defer os.Remove(tmp.Name())

	_, err = fmt.Fprintln(tmp, id)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = store.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("make the store's key: %w", err)
	}
	return &Vault{id}, nil
}

// Seal encrypts a secret.
func (v *Vault) Seal(plain []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, v.identity.Recipient())
	if err != nil {
		return nil, fmt.Errorf("seal a secret: %w", err)
	}
	_, err = w.Write(plain)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("seal a secret: %w", err)
	}
	return out.Bytes(), nil
}

// Open decrypts what Seal returned. The error is a [Fault].
func (v *Vault) Open(sealed []byte) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), v.identity)
	if err != nil {
		return nil, &Fault{fmt.Errorf("open a secret: %w; was the store's key replaced?", err)}
	}
	return io.ReadAll(r)
}
