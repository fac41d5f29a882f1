package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Stage is how far a machine's netboot came, as seen from the wire.
type Stage string

// The stages, in the order of a smooth boot. Clients leave some out: only PXE
// asks port 4011, and an iPXE in ROM loads no program.
const (
	StageAsked   Stage = "asked"   // by DHCPDISCOVER
	StageRefused Stage = "refused" // it is given nothing to boot; Trace.Why
	StageAddress Stage = "address" // it took an address
	StageBINL    Stage = "binl"    // it asked port 4011 for its file
	StageProgram Stage = "program" // it asked for its boot program
	StageLoaded  Stage = "loaded"  // it has the boot program whole
	StageIPXE    Stage = "ipxe"    // that program, or an iPXE in ROM, asked by DHCPDISCOVER
	StageScript  Stage = "script"  // iPXE or U-Boot fetched its script
	StageKernel  Stage = "kernel"
	StageInitrd  Stage = "initrd"
	StageStarted Stage = "started" // it has the initrd whole
)

// Packet is one message of a netboot. Data is the payload of a UDP datagram;
// an HTTP request has none, only its words.
type Packet struct {
	Time time.Time      `json:"time"`
	From netip.AddrPort `json:"from"`
	To   netip.AddrPort `json:"to"`
	Sent bool           `json:"sent"` // by us
	Text string         `json:"text"`
	Data []byte         `json:"data,omitempty"`
}

// Trace is the last netboot of one machine.
type Trace struct {
	MAC    string    `json:"mac"`
	Host   string    `json:"host,omitempty"` // if the MAC is enrolled
	Client string    `json:"client"`         // what asked last: "x86-64 UEFI PXE", …
	Arch   string    `json:"arch,omitempty"` // its processor, as images.Arch; "" if not known or not served
	Method string    `json:"method,omitempty"`
	Stage  Stage     `json:"stage"`
	Why    string    `json:"why,omitempty"` // why it is refused
	Rounds int       `json:"rounds"`        // DHCPDISCOVERs of firmware since it last got further
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	// Missing is the file that it asked for last by TFTP or HTTP and that there is not, if it got none since.
	Missing string `json:"missing,omitempty"`
	// Block is what a block of TFTP took with this machine, from when it was sent
	// until the next one could be, in the last transfer that was long enough to tell
	// it, and Blksize its size in bytes; 0: there was none.
	Block   time.Duration `json:"block,omitempty"` // ns
	Blksize int           `json:"blksize,omitempty"`
	Packets []Packet      `json:"packets,omitempty"`
}

// Bounds of what Traces keeps.
const (
	MaxTracePackets = 100     // of one machine
	MaxTraceBytes   = 8 << 20 // of all machines' payloads
	traceGap        = 2 * time.Minute
)

// Traces keeps the last netboot of machines in memory, for people who ask why
// one does not come up. The machine that was silent longest makes room.
type Traces struct {
	Now func() time.Time

	mu    sync.Mutex
	byMAC recent[*Trace] // by the last packet
	bytes int
}

// Add keeps a packet of the machine with this MAC, its Data included, and lets
// note say what it means. A machine that asks anew after two silent minutes begins a new trace.
func (t *Traces) Add(mac string, p Packet, note func(*Trace)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.Time = t.Now()
	tr, _ := t.byMAC.get(mac)
	if tr != nil && !p.Sent && p.Time.Sub(tr.Last) > traceGap {
		t.drop(tr)
		tr = nil
	}
	if tr == nil {
		tr = &Trace{MAC: mac, First: p.Time}
	}
	t.byMAC.use(mac, tr)
	tr.Last = p.Time
	if note != nil {
		note(tr)
	}
	if len(tr.Packets) == MaxTracePackets {
		t.bytes -= len(tr.Packets[0].Data)
		tr.Packets = slices.Delete(tr.Packets, 0, 1)
	}
	tr.Packets = append(tr.Packets, p)
	t.bytes += len(p.Data)
	for n := t.byMAC.len(); n > 1 && (t.bytes > MaxTraceBytes || n > 4*MaxDiscovered); n = t.byMAC.len() {
		_, old := t.byMAC.oldest()
		t.drop(old)
	}
}

// Note changes what is known of a machine, if it has a trace.
func (t *Traces) Note(mac string, note func(*Trace)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr, ok := t.byMAC.get(mac); ok {
		note(tr)
	}
}

// Restart forgets the trace of a machine that got its script or more: what it
// asks now is its next netboot.
func (t *Traces) Restart(mac string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	booted := []Stage{StageScript, StageKernel, StageInitrd, StageStarted}
	if tr, ok := t.byMAC.get(mac); ok && slices.Contains(booted, tr.Stage) {
		t.drop(tr)
	}
}

func (t *Traces) drop(tr *Trace) {
	for _, p := range tr.Packets {
		t.bytes -= len(p.Data)
	}
	t.byMAC.drop(tr.MAC)
}

// Get returns the trace of a MAC, or ErrNotFound.
func (t *Traces) Get(mac string) (Trace, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr, ok := t.byMAC.get(mac)
	if !ok {
		return Trace{}, ErrNotFound
	}
	out := *tr
	out.Packets = slices.Clone(tr.Packets)
	return out, nil
}

// List returns all traces without their packets, newest first.
func (t *Traces) List() []Trace {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Trace, 0, t.byMAC.len())
	for _, tr := range t.byMAC.all() {
		short := *tr
		short.Packets = nil
		out = append(out, short)
	}
	slices.SortFunc(out, func(a, b Trace) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.MAC, b.MAC)) })
	return out
}
