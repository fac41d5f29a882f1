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

// Names of secrets that every host has.
const (
	SecretHostKey = "host-key" // OpenSSH private key of the installed host
	SecretBootKey = "boot-key" // OpenSSH private key of this boot's installer
)

// SecretDisk names the secret that is written to a path on the installer.
func SecretDisk(path string) string { return "disk:" + path }

// Enroll makes a host, or changes one that is not being installed, and issues
// a permit, for a dry run if h's says so. The host's SSH key is made once and kept. An installed host is
// refused: to erase it takes a decision of its own, Reinstall.
func (inv *Inventory) Enroll(h Host, permit time.Duration, secrets map[string][]byte) (Host, error) {
	if err := inv.CheckEnroll(h); err != nil {
		return Host{}, err
	}
	return inv.permit(h, permit, secrets, false)
}

// CheckEnroll tells why Enroll would be refused by the state that the host is in. It changes
// nothing.
func (inv *Inventory) CheckEnroll(h Host) error {
	if before, err := inv.Get(h.Name); err == nil && (before.State == StateInstalled || before.State == StateRebooting) {
		return fmt.Errorf("%s is %s: to erase it and install it again, run `provision reinstall %s`", h.Name, before.State, h.Name)
	}
	return inv.CheckReinstall(h)
}

// CheckReinstall tells why Reinstall would be refused by the state that the host is in. It
// changes nothing.
func (inv *Inventory) CheckReinstall(h Host) error {
	return inv.Check(h.Name, Event{Kind: EventEnrolled, Enroll: &h})
}

func (inv *Inventory) permit(h Host, permit time.Duration, secrets map[string][]byte, newIdentity bool) (Host, error) {
	if err := errors.Join(CheckName(h.Name), h.Check()); err != nil {
		return Host{}, err
	}
	if len(h.Generated) > 0 && len(h.EscrowTo) == 0 {
		return Host{}, errors.New("a passphrase that is generated needs somebody who can read it: --escrow-to RECIPIENT")
	}
	if len(h.MACs) == 0 {
		return Host{}, fmt.Errorf("enroll %s: it needs a MAC address; `provision set %s --mac MAC` gives one to a host that is enrolled", h.Name, h.Name)
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
	ev := Event{Kind: EventEnrolled, Enroll: &h, Message: fmt.Sprintf("%s shall become %s with image %s; permit until %s",
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

// claimMACs moves the MAC index from the host as it was to as it will be.
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

// MACTaken refuses a MAC that another host has.
func MACTaken(mac, owner string) error {
	return fmt.Errorf("MAC %s is enrolled already, as %s: %s", mac, owner, freeMAC(mac, owner))
}

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

// hostKeyFor returns the public half of the host's key: the given one, the
// one it has, or a new one, which is returned as a write too.
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

// NewKey makes an ed25519 SSH key: the public half in authorized_keys form,
// the private half in OpenSSH's file format.
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

func authorized(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Secret returns a secret of a host in the clear, or ErrNotFound.
func (inv *Inventory) Secret(name, secret string) ([]byte, error) {
	rec, err := inv.store.Get(secretKey(name, secret))
	if err != nil {
		return nil, fmt.Errorf("secret %s of %s: %w", secret, name, err)
	}
	return inv.vault.Open(rec.Value)
}

// ServerKey returns the server's own SSH key, made on first use. It logs in
// to installers; hosts that list its public half let the server see which
// system they run.
func (inv *Inventory) ServerKey() (*ed25519.PrivateKey, error) {
	const owner, name = "-server", "ssh-key" // no host's name starts with a dash
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
	return key.(*ed25519.PrivateKey), nil // NewKey makes no other
}

// BeginBoot hands the host's machine a new boot: a fresh token, a fresh host
// key for its installer. b gives Via, MAC, Server and Expires, and HostKey and
// Port of an installer that is up already; machine is the SMBIOS UUID that asked,
// if it told.
func (inv *Inventory) BeginBoot(name string, b Boot, machine string) (Host, error) {
	token := make([]byte, 16)
	rand.Read(token) // never fails (crypto/rand)
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

// Fetch is a file of a boot being fetched.
type Fetch struct {
	Client string // the machine's address
	File   string
	Method Method // what led the machine here, if it is the first file
	Whole  bool   // the last file went out whole: the boot is used up
	Work   *Work  // what that file came to, if it was sent
}

// UseBoot binds the boot of this token to the client that fetches with it.
// The error is ErrRefused if the token is not (or no longer) good for this
// client.
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

// MaxFacts bounds what is kept of a machine's disks, in bytes. A thousand disks take about three MiB.
const MaxFacts = 4 << 20

// UnbindBoot forgets which machine the boot b is for, as another one asked for it, too.
func (inv *Inventory) UnbindBoot(name string, b Boot, other string) (Host, error) {
	ev := Event{Kind: EventFetched, Stranger: true, Message: fmt.Sprintf("machines with two UUIDs, %s and %s, asked for one boot with the same MAC; "+
		"if there is one machine only, somebody forges packets", b.Machine, other)}
	b.Machine = ""
	h, err := inv.Get(name)
	if err != nil {
		return h, err
	}
	ev.Boot, ev.Address = &b, h.Address
	return inv.apply(name, ev, nil)
}

// SetFacts keeps what the installer found out about the host's machine
// (disko.Facts as JSON), for plans that are made while it is off.
func (inv *Inventory) SetFacts(name string, facts []byte) error {
	if len(facts) > MaxFacts {
		return fmt.Errorf("keep what the machine of %s says of its disks: these are %d bytes, and at most %d are taken",
			name, len(facts), MaxFacts)
	}
	return inv.keepBeside(name, store.Put(factsKey(name), facts))
}

// Facts returns the last facts, or ErrNotFound.
func (inv *Inventory) Facts(name string) ([]byte, error) {
	rec, err := inv.store.Get(factsKey(name))
	if err != nil {
		return nil, fmt.Errorf("facts of %s: %w", name, err)
	}
	return rec.Value, nil
}

// MaxJournal bounds an installer's journal, bytes; the end stays.
const MaxJournal = 64 << 10

// SetJournal keeps what the installer of a failed install said, instead of an earlier one's.
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

// Journal returns what SetJournal kept, or ErrNotFound.
func (inv *Inventory) Journal(name string) (string, error) {
	rec, err := inv.store.Get(journalKey(name))
	if err != nil {
		return "", fmt.Errorf("journal of the installer of %s: %w", name, err)
	}
	return string(rec.Value), nil
}
