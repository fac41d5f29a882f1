package hosts

import (
	"errors"
	"strings"
)

// Loss says what the server holds of a host, which is lost if the host is purged.
type Loss struct {
	HostKey string   `json:"host_key,omitempty"` // the public half of its identity, authorized_keys form
	Escrow  []string `json:"escrow,omitempty"`   // paths of the disk passphrases that only the operators can decrypt
	Keys    []string `json:"keys,omitempty"`     // paths of the disk keys that are sealed on the server
	Secrets []string `json:"secrets,omitempty"`  // paths of the secret files that are sealed on the server
	Disks   []Disk   `json:"disks,omitempty"`    // that the host has claimed
	Events  int      `json:"events"`             // how many are in its log
}

// Precious reports whether something that cannot be made again would be lost.
func (l Loss) Precious() bool { return l.HostKey != "" || len(l.Escrow) > 0 }

// Loss returns what would be lost with a host, or with the SSH key that was made for a host before its enrolment. The
// error is ErrNotFound if there is neither.
func (inv *Inventory) Loss(name string) (Loss, error) {
	h, err := inv.Get(name)
	if errors.Is(err, ErrNotFound) {
		public, err := inv.Identity(name)
		return Loss{HostKey: public}, err
	}
	if err != nil {
		return Loss{}, err
	}
	return inv.loss("", h)
}

// LossOf returns the same for a host that is forgotten already.
func (inv *Inventory) LossOf(f Forgotten) (Loss, error) {
	before := asideKey(f.Host.Name, f.Time, "")
	l, err := inv.loss(before, f.Host)
	if err != nil || f.Host.State != "" {
		return l, err
	}
	rec, err := inv.store.Get(before + secretKey(f.Host.Name, SecretHostKey))
	if errors.Is(err, ErrNotFound) { // DropSecrets removed it after the store's key was lost
		return l, nil
	}
	if err != nil {
		return l, err
	}
	private, err := inv.vault.Open(rec.Value)
	if err == nil {
		l.HostKey, _, err = ParseHostKey(private)
	}
	return l, err
}

// loss collects the Loss of a host whose records have keys that begin with before.
func (inv *Inventory) loss(before string, h Host) (Loss, error) {
	l := Loss{HostKey: h.HostKey}
	recs, err := inv.belong(before, h.Name)
	if err != nil {
		return l, err
	}

	for _, rec := range recs {
		key := strings.TrimPrefix(rec.Key, before)
		if secret, ok := strings.CutPrefix(key, escrowPrefix(h.Name)); ok {
			if !strings.HasPrefix(secret, previous) {
				l.Escrow = append(l.Escrow, strings.TrimPrefix(secret, diskSecret))
			}
		} else if p, ok := strings.CutPrefix(key, secretKey(h.Name, diskSecret)); ok {
			l.Keys = append(l.Keys, p)
		} else if p, ok := strings.CutPrefix(key, secretKey(h.Name, fileSecret)); ok {
			l.Secrets = append(l.Secrets, p)
		} else if strings.HasPrefix(key, "event/") {
			l.Events++
		}
	}

	for _, d := range h.Owned {
		claims, err := inv.claims(d)
		if err != nil {
			return l, err
		}
		if len(claims) > 0 && claims[0].surely(d) && claims[0].host == h.Name {
			l.Disks = append(l.Disks, d)
		}
	}

	return l, nil
}
