package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"provision/internal/store"
)

// VaultOf opens the key file at path, with which the store's secrets are sealed. If that key is lost, it is not
// silently replaced: the error says which secrets are lost with it, and what to do.
func VaultOf(db store.Store, path string) (*Vault, error) {
	sealed, err := records{db}.List("secret/", "")
	if err != nil && !errors.As(err, new(*store.Damaged)) {
		return nil, fmt.Errorf("look for sealed secrets: %w", err)
	}

	if len(sealed) == 0 {
		return OpenVault(path)
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, lostKey(path, "it is not there", sealed)
	}

	vault, err := OpenVault(path)
	if errors.Is(err, errNoKey) {
		return nil, lostKey(path, errNoKey.Error(), sealed)
	}
	if err != nil {
		return nil, err
	}

	for _, rec := range sealed {
		if _, err := vault.Open(rec.Value); err == nil {
			return vault, nil
		}
	}

	return nil, lostKey(path, "it is another key", sealed)
}

// lostKey returns the error for a lost key; how says in which way it is lost.
func lostKey(path, how string, sealed []store.Record) error {
	whose := make(map[string][]string) // names of hosts, by kind of secret
	for _, rec := range sealed {
		owner, secret, _ := strings.Cut(strings.TrimPrefix(rec.Key, "secret/"), "/")
		kind, _, _ := strings.Cut(secret, ":")
		if !slices.Contains(whose[kind], owner) {
			whose[kind] = append(whose[kind], owner)
		}
	}

	var lost []string
	for _, kind := range []struct{ prefix, name string }{
		{SecretHostKey, "the SSH keys of hosts"},
		{strings.TrimSuffix(diskSecret, ":"), "disk keys"},
		{strings.TrimSuffix(fileSecret, ":"), "secret files"},
	} {
		owners := whose[kind.prefix]
		if n := len(owners); n > 5 {
			owners = append(slices.Clone(owners[:5]), fmt.Sprintf("and %d more", n-5))
		}
		if len(owners) > 0 {
			lost = append(lost, kind.name+" ("+strings.Join(owners, ", ")+")")
		}
	}

	lost = append(lost, "the server's own SSH key")
	return fmt.Errorf("open the store's key %s: %s, and without it these cannot be read: %s. Put the file back from a "+
		"backup; copies of state.db do not hold it. If it is lost, `provision state drop-secrets --state-dir %s` "+
		"removes "+
		"them. Installed hosts go on as they are, and passphrases in escrow can be read by those to whom they were "+
		"encrypted; a host that is installed again gets a new SSH key, its disk keys and secret files must be given "+
		"again, and hosts must let the server's new key in",
		path, how, strings.Join(lost, ", "), filepath.Dir(path))
}

// DropSecrets removes everything that is sealed from a store whose key is lost. It also marks the store as stale, so
// that the next server withdraws all permits: those installs would lack their secrets. It returns how many secrets were
// removed.
func DropSecrets(db store.Store) (int, error) {
	var writes []store.Write
	for _, prefix := range []string{"secret/", "aside/"} {
		recs, err := records{db}.List(prefix, "")
		if err != nil && !errors.As(err, new(*store.Damaged)) {
			return 0, err
		}
		for _, rec := range recs {
			if prefix == "secret/" || strings.Split(rec.Key, "/")[3] == "secret" { // keys are aside/NAME/STAMP/secret/…
				writes = append(writes, store.Delete(rec.Key))
			}
		}
	}

	mark := store.Put(store.StaleKey, []byte("the secrets of the store were dropped"))
	return len(writes), records{db}.Commit(nil, append(writes, mark))
}
