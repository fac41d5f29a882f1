package hosts

import (
	"cmp"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// MaxDiscovered bounds how many discovered machines are kept. When one more is seen, the one that was seen longest ago
// is forgotten.
const MaxDiscovered = 1000

// Discovered is a machine that asked for an address or a boot and is not enrolled.
type Discovered struct {
	MAC    string `json:"mac"`
	Vendor string `json:"vendor,omitempty"` // DHCP vendor class, option 60
	Arch   string `json:"arch,omitempty"`   // kind of client, for people: "x86-64 UEFI PXE", …
	Board  string `json:"board,omitempty"`  // the name of the recognised board
	// Address is what it last requested from another DHCP server on our link.
	Address string    `json:"address,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// sightings holds the discovered machines in memory. They are saved only every few seconds: strangers on the LAN must
// not be able to make the server write to its disk for every packet.
type sightings struct {
	mu    sync.Mutex
	byMAC recent[Discovered]
	dirty bool // changed since the last save
}

// discoveredKey is the store key of the discovered machines.
const discoveredKey = "discovered"

// see adds a machine, or updates what is known of it.
func (s *sightings) see(d Discovered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.byMAC.get(d.MAC); ok {
		d.First = old.First
		d.Vendor = cmp.Or(d.Vendor, old.Vendor)
		d.Arch = cmp.Or(d.Arch, old.Arch)
		d.Board = cmp.Or(d.Board, old.Board)
		d.Address = cmp.Or(d.Address, old.Address)
	} else if s.byMAC.len() >= MaxDiscovered {
		mac, _ := s.byMAC.oldest()
		s.byMAC.drop(mac)
	}

	s.byMAC.use(d.MAC, d)
	s.dirty = true
}

// forget removes the machines with these MACs.
func (s *sightings) forget(macs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range macs {
		s.byMAC.drop(m)
	}
	s.dirty = true
}

// list returns the machines, the last seen first.
func (s *sightings) list() []Discovered {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.byMAC.all()
	slices.SortFunc(out, func(a, b Discovered) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.MAC, b.MAC))
	})
	return out
}

// load adds the machines that save stored.
func (s *sightings) load(data []byte) error {
	var all []Discovered
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b Discovered) int { return a.Last.Compare(b.Last) })
	for _, d := range all {
		s.byMAC.use(d.MAC, d)
	}
	return nil
}

// save returns what is to be stored as JSON; nil if nothing changed since the last call.
func (s *sightings) save() ([]byte, error) {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = false
	s.mu.Unlock()
	if !dirty {
		return nil, nil
	}
	return json.Marshal(s.list())
}
