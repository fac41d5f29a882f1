// Package netboot imitates how firmware netboots, as far as the wire shows it: what it sends, which answers it takes,
// what it fetches, and where it gives up. Packets are recorded ones wherever a recording exists.
//
//	wire, err := netboot.Open(client, "eth0")                                  // a *lab.Client on the LAN
//	res, err := netboot.Client{Kind: netboot.EDK2X64, MAC: mac}.Boot(ctx, wire) // as far as kernel and initrd
//	if res.Stopped != "" { … }                                                 // where it gave up, in words
package netboot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// A Client is one machine that boots once. The zero values of all fields but Kind are of use.
type Client struct {
	Kind    Kind
	MAC     net.HardwareAddr // nil: that of the recorded packet
	UUID    []byte           // 16 bytes as in SMBIOS; nil: those of the recorded packet
	Arch    *uint16          // option 93 in place of Kind's own
	Without []byte           // options that it does not send

	// Address is the machine's if leases come from elsewhere: it then acts as if a DHCP server that knows nothing of
	// netboot had leased it, and asks nobody for it.
	Address netip.Addr
	Relay   *Relay // the machine is on another network, behind this relay agent

	// Server is the TFTP server that a person told U-Boot (serverip), in place of what its lease says.
	Server netip.Addr
	// Twice is a network on which each question over UDP arrives twice, and once more behind the next one if that
	// follows within half a second of the firmware's time.
	Twice bool

	Until Stage // 0: UntilImages
	Limit int64 // bytes of kernel and initrd to read; 0: all; negative: HTTP HEAD, or TFTP's size probe
	Then  Kind  // what the program that firmware loads is; "": ipxedust's iPXE

	Scale float64 // of the firmware's timeouts and waits; 0: 1
	Block int     // TFTP block size in place of the firmware's own; 512: it asks for none
	// Board is what U-Boot was built for, "SOC-BOARD" such as bcm283x-rpi, as it stands in the names of extlinux files;
	// "": not told, as on QEMU's virt.
	Board string
	// Revision is the board's revision code that a Pi 4 or 5 tells; 0: a Pi 4B with 4 GB, a Pi 5 with 8 GB.
	Revision uint32
	// Save is a folder to keep a Pi's kernel and initrd in, under these names; "": none.
	Save string
	// Serial is a Raspberry Pi's, lower case, as in TFTP paths; "": that which its DISCOVER tells.
	Serial string
}

// Stage is how far to go. Firmware that never comes to a stage (a Pi has no script) goes on to the end.
type Stage int

// The stages.
const (
	UntilImages  Stage = iota // whole: kernel and initrd, or what Limit says of them
	UntilOffer                // DHCP offers were chosen from
	UntilLease                // an address was acknowledged, and a boot server was asked for the file name where need be
	UntilProgram              // the program that firmware starts was fetched whole
	UntilScript               // iPXE's script, or U-Boot's extlinux file, was fetched
)

// Result tells what happened. It is of use whether or not the machine came as far as it was to.
type Result struct {
	Stopped string // why it went no further than it did, as a person at its screen would say it; "": it did all
	Local   bool   // it was told to start from its own disk, which is where it went on to

	Chose   string     // how the first firmware understood the offers that it chose
	Address netip.Addr // last lease
	Server  netip.Addr // where the last file came from
	File    string     // last boot file name or URL that DHCP told
	Script  string     // text of the last script or extlinux file
	Args    string     // the kernel's command line

	Fetched []Fetch   // in order; also what was asked for and is not there
	Timing  []Timing  // in order
	Remarks []string  // what this firmware tolerated and others do not
	Trace   []Message // all of it
}

// Fetch is one file that was asked for.
type Fetch struct {
	Stage  string // "program", "script", "kernel", "initrd", "file"
	URL    string // tftp:// or http://
	Bytes  int64  // read
	Size   int64  // announced; -1: not announced
	SHA256 string // of the bytes that were read
	Took   time.Duration
	Tries  int    // requests until the first answer
	Failed string // the server's refusal; ""
}

// Timing is one question and its answer. More than one try means that the answer took longer than the firmware's
// first timeout.
type Timing struct {
	Stage string // "offer", "lease", "boot server", and the stages of Fetch; "ipxe offer" … for the program's own
	Took  time.Duration
	Tries int
}

// Message is one message as it was sent or received.
type Message struct {
	At     time.Duration // since the boot began
	Sent   bool
	Peer   netip.AddrPort
	Text   string
	Packet []byte // DHCP only: the payload of the UDP datagram
}

func (m Message) String() string {
	arrow := "<-"
	if m.Sent {
		arrow = "->"
	}
	return fmt.Sprintf("%8.3fs %s %-21s %s", m.At.Seconds(), arrow, m.Peer, m.Text)
}

// String is the conversation and its end, for people.
func (r Result) String() string {
	var b strings.Builder
	for _, m := range r.Trace {
		fmt.Fprintln(&b, m)
	}
	fmt.Fprintf(&b, "chose: %s\n", r.Chose)
	for _, f := range r.Fetched {
		fmt.Fprintf(&b, "%s: %s, %d bytes %s\n", f.Stage, f.URL, f.Bytes, f.Failed)
	}
	fmt.Fprintf(&b, "remarks: %q\nlocal disk: %v\nstopped: %s\n", r.Remarks, r.Local, r.Stopped)
	return b.String()
}

// Got returns the first fetch of a stage that did not fail.
func (r Result) Got(stage string) (Fetch, bool) {
	for _, f := range r.Fetched {
		if f.Stage == stage && f.Failed == "" {
			return f, true
		}
	}
	return Fetch{}, false
}

// stop is why a machine goes no further. It is a result, not an error.
type stop struct {
	why string
	nak bool // a lease was refused, so it starts over (RFC 2131 section 3.1, step 4)
}

func (s stop) Error() string { return s.why }

func stopf(format string, args ...any) error { return stop{why: fmt.Sprintf(format, args...)} }

// errReached ends a boot that went as far as it was to.
var errReached = errors.New("reached")

// Boot boots the machine once. An error means that the test bed failed or ctx ended, not that the machine did not boot.
func (c Client) Boot(ctx context.Context, w *Wire) (Result, error) {
	r := &run{Client: c, w: w, begun: time.Now()}
	var err error
	if r.ask, err = c.discover(); err != nil {
		return r.res, err
	}
	r.mac = net.HardwareAddr(r.ask.hardware())
	if r.in, err = w.plug(r.mac); err != nil {
		return r.res, err
	}
	err = r.boot(ctx)
	var stopped stop
	switch {
	case errors.As(err, &stopped):
		r.res.Stopped, err = stopped.why, nil
	case errors.Is(err, errReached):
		err = nil
	}
	if err == nil {
		err = ctx.Err()
	}
	if err := errors.Join(err, w.unplug(r.mac)); err != nil {
		return r.res, fmt.Errorf("boot %s as %s: %w", r.mac, c.Kind, err)
	}
	return r.res, nil
}

// run is one boot under way.
type run struct {
	Client
	w     *Wire
	mac   net.HardwareAddr
	ask   packet // the DISCOVER of the program that runs now
	in    <-chan datagram
	begun time.Time
	stage string // prefix of the timings: "" or "ipxe "
	own   netip.Addr
	late  func() error // sends the last question once more, if Twice
	asked time.Time    // when it was sent
	held  *datagram    // what a deaf Pi 3B has heard and not understood yet
	save  io.Writer    // gets what is read over TFTP; may be nil
	res   Result
}

func (r *run) family() family { return profiles[r.Kind].family }

// scaled is a duration of the firmware's in the test's time.
func (r *run) scaled(d time.Duration) time.Duration {
	if r.Scale == 0 {
		return d
	}
	return time.Duration(float64(d) * r.Scale)
}

// question sends one, as often as the network makes it arrive.
func (r *run) question(send func() error) error {
	err := send()
	if !r.Twice || err != nil {
		return err
	}
	if err = send(); err == nil && r.late != nil && time.Since(r.asked) < r.scaled(time.Second/2) {
		if err = r.late(); errors.Is(err, net.ErrClosed) { // its port is
			err = nil
		}
	}
	r.late, r.asked = send, time.Now()
	return err
}

// reached ends the boot if it was to go no further than this stage.
func (r *run) reached(s Stage) error {
	if r.Until == s {
		return errReached
	}
	return nil
}

func (r *run) note(sent bool, peer netip.AddrPort, packet []byte, format string, args ...any) {
	r.res.Trace = append(r.res.Trace, Message{time.Since(r.begun), sent, peer, fmt.Sprintf(format, args...), packet})
}

func (r *run) remark(format string, args ...any) {
	r.res.Remarks = append(r.res.Remarks, fmt.Sprintf(format, args...))
}

func (r *run) timed(stage string, since, until time.Time, tries int) {
	r.res.Timing = append(r.res.Timing, Timing{r.stage + stage, until.Sub(since), tries})
}

func randomXID() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}

// chain starts the program that firmware loaded, which asks for everything anew.
func (r *run) chain(ctx context.Context) error {
	next := r.Client
	next.Kind, next.Arch, next.Without = r.Then, nil, nil
	if next.Kind == "" {
		whole := r.Client
		whole.Without = nil
		p, err := whole.discover()
		if err != nil {
			return err
		}
		next.Kind = Tinkerbell
		a := be16(p.get(optArch))
		switch a {
		case 0:
			next.Kind = TinkerbellBIOS
		case 9, 16:
			a = 7
		case 19:
			a = 11
		}
		next.Arch = &a
	}
	next.MAC = r.mac
	if id := r.ask.get(optUUID); next.UUID == nil && len(id) == 17 {
		next.UUID = id[1:]
	}
	ask, err := next.discover()
	if err != nil {
		return err
	}
	r.Client, r.ask, r.stage = next, ask, "ipxe "
	return r.boot(ctx)
}
