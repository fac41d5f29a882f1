package hosts

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/store"
)

// Names of secrets that every host can have.
const (
	SecretHostKey = "host-key" // OpenSSH private key of the installed host
	SecretBootKey = "boot-key" // OpenSSH private key of the installer of the newest boot
)

// SecretDisk returns the name of the disk key that is written to a path on the installer.
func SecretDisk(path string) string { return "disk:" + path }

// Enroll makes a host, or changes one that is not being installed, and issues a permit that is valid for the given
// time; h.Permit.DryRun makes it one for a dry run. The host's SSH key is made once and kept. An installed host is
// refused: to erase it takes a decision of its own, Reinstall.
func (inv *Inventory) Enroll(h Host, permit time.Duration, secrets map[string][]byte) (Host, error) {
	if err := inv.CheckEnroll(h); err != nil {
		return Host{}, err
	}
	return inv.permit(h, permit, secrets, false)
}

// CheckEnroll returns the error with which Enroll would refuse the host in its present state. It changes nothing.
func (inv *Inventory) CheckEnroll(h Host) error {
	if before, err := inv.Get(h.Name); err == nil && (before.State == StateInstalled || before.State == StateRebooting) {
		return fmt.Errorf("%s is %s: to erase it and install it again, run `provision reinstall %s`", h.Name, before.State, h.Name)
	}
	return inv.CheckReinstall(h)
}

// CheckReinstall returns the error with which Reinstall would refuse the host in its present state. It changes nothing.
func (inv *Inventory) CheckReinstall(h Host) error {
	return inv.Check(h.Name, Event{Kind: EventEnrolled, Enroll: &h})
}

// permit enrolls h in one transaction: the host, its MACs, its secrets, a permit, and the event. newIdentity gives it a
// new SSH key, unless secrets has one.
func (inv *Inventory) permit(h Host, permit time.Duration, secrets map[string][]byte, newIdentity bool) (Host, error) {
	if err := errors.Join(CheckName(h.Name), h.Check()); err != nil {
		return Host{}, err
	}
	if len(h.Generated) > 0 && len(h.EscrowTo) == 0 {
		return Host{}, errors.New("a passphrase that is generated needs somebody who can read it: --escrow-to " +
			"RECIPIENT")
	}
	if len(h.MACs) == 0 {
		return Host{}, fmt.Errorf("enroll %s: it needs a MAC address; `provision set %s --mac MAC` gives one to a "+
			"host that is enrolled", h.Name, h.Name)
	}
	for i, m := range h.MACs {
		mac, err := ParseMAC(m)
		if err != nil {
			return Host{}, err
		}
		h.MACs[i] = mac
	}

	slices.Sort(h.MACs)
	h.MACs = slices.Compact(h.MACs)
	now := inv.now()
	h.Permit = Permit{
		Issued:    now,
		Expires:   now.Add(permit),
		DryRun:    h.Permit.DryRun,
		Via:       h.Permit.Via,
		Take:      h.Permit.Take,
		Confirmed: h.Permit.Confirmed,
	}
	h.State = ""
	if err := inv.allGiven(h, secrets); err != nil {
		return Host{}, err
	}

	key, keyWrite, err := inv.hostKeyFor(h.Name, secrets[SecretHostKey])
	if newIdentity && secrets[SecretHostKey] == nil {
		key, keyWrite, err = inv.newIdentity(h.Name)
	}
	if err != nil {
		return Host{}, err
	}

	h.HostKey = key
	ev := Event{Kind: EventEnrolled, Enroll: &h, Message: fmt.Sprintf("%s shall become %s with image %s; permit "+
		"until %s",
		strings.Join(h.MACs, ", "), h.Name, h.Image, h.Permit.Expires.Format(time.RFC3339))}
	if h.Permit.DryRun {
		ev.Message += ", for a dry run"
	}
	writesOf := func(_ *Inventory, before, after *Host, _ Event) ([]store.Version, []store.Write, error) {
		expect, writes, err := inv.claimMACs(before, after)
		if err != nil {
			return nil, nil, err
		}

		kept, err := inv.keepIdentity(before, after)
		if err != nil {
			return nil, nil, err
		}

		sealed, err := inv.keepSecrets(before, after, secrets)
		if err != nil {
			return nil, nil, err
		}

		return expect, slices.Concat(writes, kept, sealed, keyWrite), nil
	}
	done, err := inv.apply(h.Name, ev, writesOf)
	if err == nil {
		inv.seen.forget(h.MACs)
	}

	return done, err
}

// claimMACs moves the MAC index from the host as it was to the host as it will be.
func (inv *Inventory) claimMACs(before, after *Host) (expect []store.Version, writes []store.Write, err error) {
	for _, mac := range before.MACs {
		writes = append(writes, store.Delete(macKey(mac)))
	}
	for _, mac := range after.MACs {
		rec, err := inv.store.Get(macKey(mac))
		switch {
		case err == nil && string(rec.Value) != after.Name:
			return nil, nil, MACTaken(mac, string(rec.Value))
		case err != nil && !errors.Is(err, ErrNotFound):
			return nil, nil, err
		}
		expect = append(expect, store.At(macKey(mac), rec.Version))
		writes = append(writes, store.Put(macKey(mac), []byte(after.Name)))
	}

	return expect, writes, nil
}

// MACTaken returns the error for a MAC that another host has.
func MACTaken(mac, owner string) error {
	return fmt.Errorf("MAC %s is enrolled already, as %s: %s", mac, owner, freeMAC(mac, owner))
}

// sealAll returns the writes that store the secrets of a host, encrypted.
func (inv *Inventory) sealAll(name string, secrets map[string][]byte) (writes []store.Write, err error) {
	for secret, plain := range secrets {
		sealed, err := inv.vault.Seal(plain)
		if err != nil {
			return nil, err
		}
		writes = append(writes, store.Put(secretKey(name, secret), sealed))
	}
	return writes, nil
}

// hostKeyFor returns the public half of the host's SSH key: of the given private key, else of the one that the host
// has, else of a new one, which it returns as writes too.
func (inv *Inventory) hostKeyFor(name string, given []byte) (public string, writes []store.Write, err error) {
	private := given
	if given == nil {
		private, err = inv.Secret(name, SecretHostKey)
	}
	if err == nil {
		signer, err := ssh.ParsePrivateKey(private)
		if err != nil {
			return "", nil, fmt.Errorf("read the host key of %s: %w", name, err)
		}
		return authorized(signer.PublicKey()), nil, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return "", nil, err
	}
	return inv.newIdentity(name)
}

// NewKey makes an ed25519 SSH key. It returns the public half in authorized_keys form and the private half in the
// OpenSSH file format.
func NewKey(comment string) (public string, private []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", nil, fmt.Errorf("make an SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return "", nil, fmt.Errorf("make an SSH key: %w", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", nil, fmt.Errorf("make an SSH key: %w", err)
	}
	return authorized(sshPub), pem.EncodeToMemory(block), nil
}

// authorized returns a key in authorized_keys form, without a newline.
func authorized(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Secret returns a secret of a host, decrypted, or ErrNotFound.
func (inv *Inventory) Secret(name, secret string) ([]byte, error) {
	rec, err := inv.store.Get(secretKey(name, secret))
	if err != nil {
		return nil, fmt.Errorf("secret %s of %s: %w", secret, name, err)
	}
	return inv.vault.Open(rec.Value)
}

// ServerKey returns the server's own SSH key, which is made on first use. The server logs in to installers with it.
// Hosts whose authorized_keys hold its public half let the server see which system they run.
func (inv *Inventory) ServerKey() (*ed25519.PrivateKey, error) {
	const owner, name = "-server", "ssh-key" // host names do not start with a dash
	private, err := inv.Secret(owner, name)
	if errors.Is(err, ErrNotFound) {
		if _, private, err = NewKey("provision"); err != nil {
			return nil, err
		}
		var writes []store.Write
		if writes, err = inv.sealAll(owner, map[string][]byte{name: private}); err == nil {
			err = inv.store.Commit([]store.Version{store.Absent(secretKey(owner, name))}, writes)
		}
	}
	if err != nil {
		return nil, err
	}

	key, err := ssh.ParseRawPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("read the server's SSH key: %w", err)
	}
	return key.(*ed25519.PrivateKey), nil // NewKey makes ed25519 keys only
}

// BeginBoot gives the host's machine a new boot, with a fresh token and a fresh SSH host key for its installer. b
// provides what is known of the request (Client, MAC, Server, Expires and so on), and HostKey and Port if an installer
// runs already. machine is the SMBIOS UUID of the machine that asked; empty if it told none.
func (inv *Inventory) BeginBoot(name string, b Boot, machine string) (Host, error) {
	token := make([]byte, 16)
	rand.Read(token) // never fails, see crypto/rand
	b.Token, b.Started = hex.EncodeToString(token), inv.now()
	public, private, err := NewKey("installer of " + name)
	if err != nil {
		return Host{}, err
	}

	b.HostKey = cmp.Or(b.HostKey, public)
	secret, err := inv.sealAll(name, map[string][]byte{SecretBootKey: private})
	if err != nil {
		return Host{}, err
	}

	ev := Event{Kind: EventNetboot, Boot: &b, Machine: machine, Message: b.Client + " asked; a boot was offered"}
	return inv.apply(name, ev, func(_ *Inventory, _, after *Host, _ Event) ([]store.Version, []store.Write, error) {
		found := []store.Write{store.Put(tokenKey(b.Token), []byte(name))}
		if id := after.DUID(); id != "" {
			found = append(found, store.Put(duidKey(id), []byte(name)))
		}
		return nil, slices.Concat(secret, found), nil
	})
}

// Fetch describes the request for a file of a boot.
type Fetch struct {
	Client string // address of the machine
	File   string
	Method Method // how the machine was led to its installer, if this is the first file
	Whole  bool   // the last file was sent completely: the boot is used up
	Work   *Work  // what was sent of the file, if it was sent
}

// UseBoot binds the boot with this token to the first client that fetches with it. The error is ErrRefused if the token
// is not, or no longer, valid for this client.
func (inv *Inventory) UseBoot(token string, f Fetch) (Host, error) {
	h, err := inv.ByToken(token)
	if err != nil {
		return h, err
	}

	b := h.Boot
	if b.Token != token || h.State != StateBooting || !b.Serves(inv.now()) || (b.TakenBy != "" && b.TakenBy != f.Client) {
		return h, fmt.Errorf("%s: %w: this boot is over or belongs to another address", h.Name, ErrRefused)
	}
	if b.TakenBy == f.Client && !f.Whole {
		return h, nil
	}
	if b.TakenBy == "" {
		b.Taken = inv.now()
	}
	b.TakenBy = f.Client
	if f.Whole {
		b.Used = inv.now()
	}
	return inv.Apply(h.Name, Event{
		Kind:    EventFetched,
		Boot:    &b,
		Address: f.Client,
		Method:  f.Method,
		Work:    f.Work,
		Message: f.Client + " fetched " + f.File,
	})
}

// MaxFacts bounds what SetFacts keeps for a machine, in bytes. The facts of a thousand disks take about 3 MiB.
const MaxFacts = 4 << 20

// UnbindBoot removes the machine's UUID from the boot b, because a machine with another UUID (other) asked for the same
// boot.
func (inv *Inventory) UnbindBoot(name string, b Boot, other string) (Host, error) {
	ev := Event{Kind: EventFetched, Stranger: true, Message: fmt.Sprintf("machines with two UUIDs, %s and %s, "+
		"asked for one boot with the same MAC; "+
		"if there is one machine only, somebody forges packets", b.Machine, other)}
	b.Machine = ""
	h, err := inv.Get(name)
	if err != nil {
		return h, err
	}
	ev.Boot, ev.Address = &b, h.Address
	return inv.apply(name, ev, nil)
}

// SetFacts stores what the installer found out about the host's machine (disko.Facts as JSON, at most MaxFacts bytes),
// for plans that are made while the machine is off.
func (inv *Inventory) SetFacts(name string, facts []byte) error {
	if len(facts) > MaxFacts {
		return fmt.Errorf("keep what the machine of %s says of its disks: these are %d bytes, and at most %d are taken",
			name, len(facts), MaxFacts)
	}
	return inv.keepBeside(name, store.Put(factsKey(name), facts))
}

// Facts returns what SetFacts stored last, or ErrNotFound.
func (inv *Inventory) Facts(name string) ([]byte, error) {
	rec, err := inv.store.Get(factsKey(name))
	if err != nil {
		return nil, fmt.Errorf("facts of %s: %w", name, err)
	}
	return rec.Value, nil
}

// MaxJournal bounds the journal of an installer, in bytes. Of a longer one, the end is kept.
const MaxJournal = 64 << 10

// SetJournal stores the journal of the installer whose install failed, and replaces an earlier one.
func (inv *Inventory) SetJournal(name, journal string) error {
	journal = strings.ToValidUTF8(journal[max(0, len(journal)-MaxJournal):], "")
	return inv.keepBeside(name, store.Put(journalKey(name), []byte(journal)))
}

// keepBeside writes what is kept of a host beside its record, unless the host was forgotten meanwhile.
func (inv *Inventory) keepBeside(name string, what store.Write) error {
	return retryConflicts(func() error {
		_, version, err := inv.get(name)
		if err != nil {
			return err
		}
		return inv.store.Commit([]store.Version{store.At(hostKey(name), version)}, []store.Write{what})
	})
}

// Journal returns what SetJournal stored, or ErrNotFound.
func (inv *Inventory) Journal(name string) (string, error) {
	rec, err := inv.store.Get(journalKey(name))
	if err != nil {
		return "", fmt.Errorf("journal of the installer of %s: %w", name, err)
	}
	return string(rec.Value), nil
}
