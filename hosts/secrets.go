package hosts

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"provision/internal/store"
)

// MaxSecret bounds the size of a secret file, in bytes.
const MaxSecret = 1 << 20

// SecretFile is a file of the installed host whose content the server keeps sealed until it is delivered.
type SecretFile struct {
	Path string `json:"path"` // absolute, on the new system
	Mode string `json:"mode"` // octal, such as 0400
}

// Chown sets the owner of a file or folder of the new system, and of everything below it.
type Chown struct {
	Path string `json:"path"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// SecretContent returns the name of the secret that is delivered to a path of the new system.
func SecretContent(path string) string { return fileSecret + path }

// Prefixes of the names of secrets; a path follows.
const (
	fileSecret = "file:"
	diskSecret = "disk:"
)

// modePattern matches the file modes that are accepted: without set-user-ID, set-group-ID and sticky bits.
var modePattern = regexp.MustCompile(`^0?[0-7]{3}$`)

// checkSecrets returns an error if escrow, secrets or owners could not be carried out.
func (c Choices) checkSecrets() error {
	for _, r := range c.EscrowTo {
		if _, err := ParseRecipient(r); err != nil {
			return err
		}
	}

	var paths []string
	for _, f := range c.Secrets {
		switch err := checkTarget(f.Path); {
		case err != nil:
			return fmt.Errorf("secret %w", err)
		case !modePattern.MatchString(f.Mode):
			return fmt.Errorf("secret %s: mode %q: write three octal digits, such as 0400", f.Path, f.Mode)
		case slices.Contains(paths, f.Path):
			return fmt.Errorf("secret %s is given twice", f.Path)
		case strings.HasPrefix(f.Path, "/etc/ssh/ssh_host_ed25519_key"):
			return fmt.Errorf("secret %s is the host's identity: give it with --host-key", f.Path)
		}

		paths = append(paths, f.Path)
	}

	for _, owner := range c.Chown {
		switch err := checkTarget(owner.Path); {
		case err != nil:
			return fmt.Errorf("chown %w", err)
		case owner.UID == unchanged || owner.GID == unchanged:
			return fmt.Errorf("chown %s: %d is nobody's number; it means that nothing changes", owner.Path, uint32(unchanged))
		}
	}

	return nil
}

const unchanged = 1<<32 - 1 // as a uid or gid; see chown(2)

// checkTarget returns an error for a path that does not name a file or folder of the new system's own. The error begins
// with the path.
func checkTarget(p string) error {
	under := func(dirs ...string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return p == d || strings.HasPrefix(p, d+"/") })
	}
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%q: write an absolute path on the new system", p)
	case path.Clean(p) != p:
		return fmt.Errorf("%q: write it without \"..\", \".\", doubled or trailing slashes: %s", p, path.Clean(p))
	case strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("%q: it has control characters", p)
	case p == "/" || p == "/nix":
		return fmt.Errorf("%s: name what is below it", p)
	case under("/nix/store", "/nix/var"):
		return fmt.Errorf("%s: it belongs to nix; everybody may read the store", p)
	case under("/proc", "/sys", "/dev", "/run"):
		return fmt.Errorf("%s: what is there is made anew at each start", p)
	}

	return nil
}

// keepSecrets returns the writes that seal the secrets of an enrolment, put its disk keys into escrow, and remove
// secret files that only an earlier enrolment had.
func (inv *Inventory) keepSecrets(before, after *Host, given map[string][]byte) ([]store.Write, error) {
	writes, err := inv.sealAll(after.Name, given)
	if err != nil {
		return nil, err
	}

	old, err := inv.store.List("secret/"+after.Name+"/"+fileSecret, "")
	if err != nil {
		return nil, err
	}

	for _, rec := range old {
		p := strings.TrimPrefix(rec.Key, "secret/"+after.Name+"/"+fileSecret)
		if !slices.ContainsFunc(after.Secrets, func(f SecretFile) bool { return f.Path == p }) {
			writes = append(writes, store.Delete(rec.Key))
		}
	}

	keys := make(map[string]diskKey)
	for _, p := range after.DiskKeys {
		secret := SecretDisk(p)
		key, made := diskKey{plain: given[secret]}, []store.Write(nil)
		switch {
		case key.plain != nil:
		case slices.Contains(after.Generated, p):
			made, key, err = inv.generate(before, after.Name, p)
		default: // of an earlier enrolment
			key.same = true
			key.plain, err = inv.Secret(after.Name, secret)
		}
		if err != nil {
			return nil, err
		}

		keys[secret] = key
		writes = append(writes, made...)
	}

	escrow, err := inv.escrow(after, keys)
	return append(writes, escrow...), err
}

// diskKey is a disk key that is to be put into escrow.
type diskKey struct {
	plain []byte
	same  bool // as the one in escrow
}

// generate returns the passphrase that the server generated at an earlier enrolment of the host and has not removed
// since, or a new one with the writes that seal it.
func (inv *Inventory) generate(before *Host, name, p string) ([]store.Write, diskKey, error) {
	if slices.Contains(before.Generated, p) {
		plain, err := inv.Secret(name, SecretDisk(p))
		if !errors.Is(err, ErrNotFound) {
			return nil, diskKey{plain, true}, err
		}
	}
	plain := NewPassphrase()
	writes, err := inv.sealAll(name, map[string][]byte{SecretDisk(p): plain})
	return writes, diskKey{plain: plain}, err
}

// HasDiskKey reports whether the operator gave the host's disk key for a path, and the server still has it.
func (inv *Inventory) HasDiskKey(name, p string) bool {
	if h, err := inv.Get(name); err != nil || slices.Contains(h.Generated, p) {
		return false
	}
	_, err := inv.store.Get(secretKey(name, SecretDisk(p)))
	return err == nil
}

// settleProved returns the writes that remove secrets once a host has proved itself, as it then has its own copies.
// Generated passphrases remain in escrow, which only the operators' keys open. Disk keys that the operator gave are
// kept, since another install needs them.
func (inv *Inventory) settleProved(_, after *Host, _ Event) ([]store.Version, []store.Write, error) {
	writes, err := inv.settleSecrets(after, false)
	return nil, writes, err
}

// settleUndone returns the writes that follow when a permit is withdrawn or a dry run ends. If an installed system is
// still on the disks, the secrets for the new install are removed, and the previous escrow is restored.
func (inv *Inventory) settleUndone(before, after *Host, _ Event) ([]store.Version, []store.Write, error) {
	identity, err := inv.settleIdentity(before, after)
	if err != nil || !after.HasInstalled() {
		return nil, identity, err
	}
	secrets, err := inv.settleSecrets(after, true)
	return nil, append(identity, secrets...), err
}

// settleSecrets returns the writes that remove the secrets for an install and the escrow of the install before; with
// undone, the latter becomes the host's escrow again.
func (inv *Inventory) settleSecrets(after *Host, undone bool) (writes []store.Write, err error) {
	for _, p := range after.Generated {
		writes = append(writes, store.Delete(secretKey(after.Name, SecretDisk(p))))
	}
	if !after.KeepSecrets {
		for _, f := range after.Secrets {
			writes = append(writes, store.Delete(secretKey(after.Name, SecretContent(f.Path))))
		}
	}

	prefix := escrowPrefix(after.Name)
	old, err := inv.store.List(prefix+previous, "")
	for _, rec := range old {
		writes = append(writes, store.Delete(rec.Key))
		if undone {
			writes = append(writes, store.Put(prefix+strings.TrimPrefix(rec.Key, prefix+previous), rec.Value))
		}
	}

	return writes, err
}

// allGiven returns an error if secrets that an install needs are missing.
func (inv *Inventory) allGiven(h Host, given map[string][]byte) error {
	missing, err := inv.missing(h, given)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("the server does not have all secrets of %s; it removes them once a host is installed: "+
			"give them again, with %s", h.Name, strings.Join(missing, " "))
	}
	return err
}

// missing returns what the operator must give again before the host can be installed, because the server removed it
// after it was delivered. The results are flags of enroll, such as "--secret /var/lib/key=FILE:0400".
func (inv *Inventory) missing(h Host, given map[string][]byte) (missing []string, err error) {
	has := func(secret string) bool {
		if given[secret] != nil {
			return true
		}
		_, e := inv.store.Get(secretKey(h.Name, secret))
		if e != nil && !errors.Is(e, ErrNotFound) {
			err = e
		}
		return e == nil
	}
	for _, f := range h.Secrets {
		if !has(SecretContent(f.Path)) {
			missing = append(missing, fmt.Sprintf("--secret %s=FILE:%s", f.Path, f.Mode))
		}
	}

	for _, p := range h.DiskKeys {
		if !slices.Contains(h.Generated, p) && !has(SecretDisk(p)) {
			missing = append(missing, fmt.Sprintf("--disk-encryption-key %s=FILE", p))
		}
	}

	return missing, err
}
