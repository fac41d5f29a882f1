package hosts

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Stage is how far a machine's netboot has come, as its packets tell.
type Stage string

// The stages, in the order of a boot without problems. Clients skip some: only PXE asks port 4011, and an iPXE in ROM
// loads no program.
const (
	StageAsked   Stage = "asked"   // sent a DHCPDISCOVER
	StageRefused Stage = "refused" // gets nothing to boot; Trace.Why says why
	StageAddress Stage = "address" // took an address
	StageBINL    Stage = "binl"    // asked port 4011 for its file
	StageProgram Stage = "program" // asked for its boot program
	StageLoaded  Stage = "loaded"  // received the whole boot program
	StageIPXE    Stage = "ipxe"    // that program, or an iPXE in ROM, sent a DHCPDISCOVER
	StageScript  Stage = "script"  // iPXE or U-Boot fetched its script
	StageKernel  Stage = "kernel"
	StageInitrd  Stage = "initrd"
	StageStarted Stage = "started" // received the whole initrd
)

// Packet is one message of a netboot. Data is the payload of a UDP datagram; an HTTP request has only Text.
type Packet struct {
	Time time.Time      `json:"time"`
	From netip.AddrPort `json:"from"`
	To   netip.AddrPort `json:"to"`
	Sent bool           `json:"sent"` // whether we sent it
	Text string         `json:"text"` // summary, for people
	Data []byte         `json:"data,omitempty"`
}

// Trace is the last netboot of one machine.
type Trace struct {
	MAC    string    `json:"mac"`
	Host   string    `json:"host,omitempty"` // if the MAC is enrolled
	Client string    `json:"client"`         // the kind of client that asked last: "x86-64 UEFI PXE", …
	Arch   string    `json:"arch,omitempty"` // its processor, an images.Arch; "" if not known or not served
	Method string    `json:"method,omitempty"`
	Stage  Stage     `json:"stage"`
	Why    string    `json:"why,omitempty"` // why it gets nothing to boot
	Rounds int       `json:"rounds"`        // DHCPDISCOVERs of firmware since the machine last got further
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	// Missing is the file that it last requested by TFTP or HTTP and that does not exist, if it has received no other
	// since.
	Missing string `json:"missing,omitempty"`
	// Block is how long a TFTP block took with this machine, from when it was sent until the next one could be sent. It is
	// from the last transfer that was long enough to measure it. Blksize is the size of that block in bytes. Both are 0 if
	// there was no such transfer.
	Block   time.Duration `json:"block,omitempty"` // ns
	Blksize int           `json:"blksize,omitempty"`
	Packets []Packet      `json:"packets,omitempty"`
}

// Limits of what Traces keeps.
const (
	MaxTracePackets = 100     // for one machine
	MaxTraceBytes   = 8 << 20 // payloads of all machines together
	traceGap        = 2 * time.Minute
)

// Traces keeps the last netboot of each machine in memory, for people who ask why one does not boot. When memory runs
// short, the machine that was silent longest is dropped. It is safe for concurrent use.
type Traces struct {
	Now func() time.Time

	mu    sync.Mutex
	byMAC recent[*Trace] // ordered by the last packet
	bytes int            // of all payloads
}

// Add records a packet of the machine with this MAC, keeping its Data, and calls note, if not nil, to record what it
// means. If the machine sends something after two minutes of silence, a new trace begins.
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

// Note changes the trace of a machine, if it has one.
func (t *Traces) Note(mac string, note func(*Trace)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr, ok := t.byMAC.get(mac); ok {
		note(tr)
	}
}

// Restart drops the trace of a machine that has got its script or more: what it asks next belongs to its next netboot.
func (t *Traces) Restart(mac string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	booted := []Stage{StageScript, StageKernel, StageInitrd, StageStarted}
	if tr, ok := t.byMAC.get(mac); ok && slices.Contains(booted, tr.Stage) {
		t.drop(tr)
	}
}

// drop removes a trace. The caller holds the lock.
func (t *Traces) drop(tr *Trace) {
	for _, p := range tr.Packets {
		t.bytes -= len(p.Data)
	}
	t.byMAC.drop(tr.MAC)
}

// Get returns a copy of the trace of a MAC, or ErrNotFound.
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

// List returns all traces without their packets, the newest first.
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
