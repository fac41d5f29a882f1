package pxe

import (
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
)

// No single reply fits all firmware. Some needs port 4011 (EDK2 before 2018
// drops proxy offers with option 43), some never asks it and needs the file in
// the first offer, some takes nothing but one complete lease; and where iPXE's
// own network driver hangs, the firmware's may do, or the other way round. So
// each machine has a ladder: a round that comes to nothing is a step.

// steps are what can be tried with one kind of client, the likeliest first.
type steps struct {
	offers   []string
	programs []string // hosts.ProgramFirmware, hosts.ProgramNative; only those that we have
}

// stepsFor are the steps for a client that loads a program.
func stepsFor(c bootClient, mode Mode, programs map[string][]byte) (st steps) {
	switch {
	case c.profile().url:
		st.offers = []string{hosts.OfferHTTP}
	case mode == Full:
		// With a lease the file in the first offer makes that complete: EDK2
		// prefers it to all others, and nobody has to ask port 4011.
		st.offers = []string{hosts.OfferFirst, hosts.OfferBINL, hosts.OfferPlain, hosts.OfferHeader}
	case c.Arch == iana.INTEL_X86PC:
		st.offers = []string{hosts.OfferFirst, hosts.OfferBINL, hosts.OfferHeader}
	default:
		st.offers = []string{hosts.OfferBINL, hosts.OfferFirst, hosts.OfferHeader}
	}

	for _, p := range []string{hosts.DriverFirmware, hosts.DriverNative} {
		if programs[programFile(c, p)] != nil {
			st.programs = append(st.programs, p)
		}
	}

	return st
}

// programFile is the program of this kind for this client; "" if there is none.
func programFile(c bootClient, program string) string {
	firmware := program == hosts.DriverFirmware
	pick := func(snp, native string) string {
		if firmware {
			return snp
		}
		return native
	}
	switch {
	case c.processor() == string(images.AArch64):
		return pick(images.ProgramSNPArm64, images.ProgramNativeArm64)
	case c.Arch == iana.INTEL_X86PC:
		return pick(images.ProgramUNDI, images.ProgramBIOS)
	case c.processor() == string(images.X86_64):
		return pick(images.ProgramSNP, images.ProgramNative)
	}

	return ""
}

// climb is where a machine is on its ladder.
type climb struct {
	offer, program int       // indices into steps
	round          time.Time // when its firmware last asked by DHCPDISCOVER
	method         hosts.Method
	asked          bool // it asked for its program
	loaded         bool // it has its program whole
	ipxe           bool // that program asked
	done           bool // it fetched its script
}

// again is the least time after which firmware that asks again has given up
// on what it was offered; what comes sooner is a duplicate.
const again = 900 * time.Millisecond

// ladders are those of all machines. They live in memory: what worked is kept
// in the host.
type ladders struct {
	mu    sync.Mutex
	byMAC map[string]*climb
	half  map[string]half // by host
}

// half is that one of kernel and initrd went out whole under a token.
type half struct{ token, file string }

// ask is the method for this client now. Firmware that asks anew by
// DISCOVER moves the machine on if the last round came to nothing: to the next
// offer if it asked for no program, to the next program if that one never
// asked for its script.
func (l *ladders) ask(c bootClient, st steps, discover bool, pinned, worked hosts.Method, now time.Time) hosts.Method {
	l.mu.Lock()
	defer l.mu.Unlock()

	st.offers, st.programs = pin(st.offers, pinned.Offer), pin(st.programs, pinned.Program)
	if len(st.offers) == 0 || len(st.programs) == 0 {
		return hosts.Method{}
	}
	cl := l.byMAC[c.MAC]
	switch {
	case cl == nil:
		cl = &climb{
			offer:   max(slices.Index(st.offers, worked.Offer), 0),
			program: max(slices.Index(st.programs, worked.Program), 0),
			round:   now,
		}
		l.init()
		l.byMAC[c.MAC] = cl
	case discover && now.Sub(cl.round) >= again:
		cl.round = now
		switch {
		case cl.done:
		case cl.loaded && !cl.ipxe:
			cl.program++
		case !cl.asked:
			cl.offer++
		}

		cl.asked = false
		cl.loaded = false
		cl.ipxe = false
		cl.done = false
	}

	cl.method = hosts.Method{Offer: st.offers[cl.offer%len(st.offers)], Program: st.programs[cl.program%len(st.programs)]}
	return cl.method
}

// pin keeps the one that was chosen, if any was and it can be had.
func pin(list []string, chosen string) []string {
	if chosen == "" {
		return list
	}
	if slices.Contains(list, chosen) {
		return []string{chosen}
	}
	return nil
}

// note changes what is known of a machine, if it is on a ladder.
func (l *ladders) note(mac string, change func(*climb)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if cl := l.byMAC[mac]; cl != nil {
		change(cl)
	}
}

// worked is the method that led the machine to its script: that of its ladder,
// if it loaded a program by it, else an iPXE of its own. That it has the program
// whole may be learned late, or never: the last acknowledgement of TFTP is
// repeated by nobody.
func (l *ladders) worked(mac string) hosts.Method {
	m := hosts.Method{Offer: hosts.OfferROM}
	l.note(mac, func(cl *climb) {
		if cl.loaded || cl.asked && cl.ipxe {
			m = cl.method
		}
	})
	return m
}

// direct notes that the machine loads no program of ours, but its installer at
// once, by this method.
func (l *ladders) direct(mac string, how hosts.Method) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	l.byMAC[mac] = &climb{method: how, loaded: true}
}

// init makes room: strangers are forgotten, the known ones remember.
func (l *ladders) init() {
	if l.byMAC == nil || len(l.byMAC) > 10*hosts.MaxDiscovered {
		l.byMAC = make(map[string]*climb)
	}
}

// done notes that the machine has its script. Whatever asks next has loaded
// nothing yet.
func (l *ladders) done(mac string) {
	l.note(mac, func(cl *climb) {
		cl.asked = false
		cl.loaded = false
		cl.ipxe = false
		cl.done = true
	})
}

// loaded reports whether the machine has its program whole.
func (l *ladders) loaded(mac string) (yes bool) {
	l.note(mac, func(cl *climb) { yes = cl.loaded })
	return yes
}

// other notes that the host's machine has this file whole, and reports whether
// it had the other one: U-Boot asks for the initrd first, others for the kernel.
func (l *ladders) other(host, token, file string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	had, ok := l.half[host]
	if l.half == nil {
		l.half = make(map[string]half)
	}
	l.half[host] = half{token, file}
	return ok && had.token == token && had.file != file
}
