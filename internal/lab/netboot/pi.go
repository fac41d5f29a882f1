package netboot

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// piOffers merges replies, as the Pis' ROMs do: the address may come from one and the TFTP server from another. It goes
// on as soon as both are known.
func (r *run) piOffers(ctx context.Context, waits []time.Duration, tftp func(reply) netip.Addr) (lease reply, server netip.Addr, err error) {
	if r.Address.IsValid() {
		lease = r.static()
	}
	p := r.ask
	if p.xid() != 0x26f30339 { // which the 3B and 3B+ always send
		p.setXID(randomXID())
	}
	var offers []reply
	begin := time.Now()
	tries, err := r.rounds(ctx, p, waits, func(o reply) bool {
		if o.kind() != offer {
			return false
		}
		offers = append(offers, o)
		if !o.proxy() && lease.at.IsZero() {
			lease = o
		}
		if s := tftp(o); s.IsValid() {
			server = s
		}
		return !lease.at.IsZero() && server.IsValid()
	}, never)
	if err != nil {
		return lease, server, err
	}
	if tries == 0 {
		return lease, server, stopf("no reply for a Raspberry Pi, after %d DHCPDISCOVERs; heard %s", len(waits), heard(offers))
	}
	r.chose(choice{how: "a lease and a TFTP server for a Raspberry Pi", lease: lease, boot: offers[len(offers)-1]}, begin, tries)
	return lease, server, r.reached(UntilOffer)
}

// dotted reads option 66, which counts only if it is an address.
func dotted(p reply) netip.Addr {
	a, err := netip.ParseAddr(p.text(optTFTPName))
	if err != nil || !a.Is4() {
		return netip.Addr{}
	}
	return a
}

// pi3Server is the rule of the 3B's and 3B+'s ROM: option 66, or option 43 with the words and three spaces, which means
// the sender. The last in the packet wins; siaddr does not count.
func pi3Server(p reply) (server netip.Addr) {
	for _, o := range p.opts {
		switch {
		case o.code == optTFTPName && dotted(p).IsValid():
			server = dotted(p)
		case o.code == optVendor && bytes.Contains(o.data, []byte("Raspberry Pi Boot   ")):
			server = p.from.Addr()
		}
	}
	return server
}

// pi45Server is the rule of the Pi 4's and 5's EEPROM: option 66; siaddr and option 54 only with PXEClient and the words.
func pi45Server(p reply) netip.Addr {
	if a := dotted(p); a.IsValid() {
		return a
	}
	if p.pxe() && bytes.Contains(p.vendor()[9], []byte("Raspberry Pi Boot")) {
		return p.server()
	}
	return netip.Addr{}
}

// pi3 is the boot ROM of a 3B or 3B+, which sends no DHCPREQUEST, and then bootcode.bin, which asks again.
func (r *run) pi3(ctx context.Context) error {
	waits := seconds(5, 5, 5, 5, 5)
	lease, server, err := r.piOffers(ctx, waits, pi3Server)
	if err != nil {
		return err
	}
	if err := r.take(lease.yiaddr()); err != nil {
		return err
	}
	if err := r.piFiles(ctx, server, "program", piFile{"bootcode.bin", true}); err != nil {
		return err
	}
	if err := r.reached(UntilProgram); err != nil {
		return err
	}
	// bootcode.bin sends the 3B+'s packet.
	next := r.Client
	next.Kind, next.MAC = Pi3BPlus, r.mac
	if r.ask, err = next.discover(); err != nil {
		return err
	}
	r.Client.Kind, r.stage = Pi3BPlus, "bootcode.bin "
	if _, server, err = r.piOffers(ctx, waits, pi3Server); err != nil {
		return err
	}
	prefix, err := r.piPrefix(ctx, server, "start.elf")
	if err != nil {
		return err
	}
	dtb := "bcm2710-rpi-3-b.dtb"
	return r.piSequence(ctx, server, prefix, []piFile{{"autoboot.txt", false}, {"config.txt", false}, {"recovery.elf", false},
		{"start.elf", true}, {"fixup.dat", true}, {"dt-blob.bin", false}, {"bootcfg.txt", false}, {"kernel8.img", true},
		{"initrd", false}, {dtb, true}, {"overlays/overlay_map.dtb", false}, {"cmdline.txt", false}, {"armstub8.bin", false}})
}

// pi45 is the EEPROM of a Pi 4 or 5.
func (r *run) pi45(ctx context.Context) error {
	lease, server, err := r.piOffers(ctx, seconds(4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4), pi45Server)
	if err != nil {
		return err
	}
	if _, err := r.lease(ctx, lease, seconds(4, 4, 4)); err != nil {
		return err
	}
	if err := r.reached(UntilLease); err != nil {
		return err
	}
	if r.Kind == Pi5 {
		prefix, err := r.piPrefix(ctx, server, "config.txt")
		if err != nil {
			return err
		}
		return r.piSequence(ctx, server, prefix, []piFile{{"config.txt", true}, {"pieeprom.sig", false}, {"bcm2712-rpi-5-b.dtb", true},
			{"kernel_2712.img", true}, {"initrd", false}, {"overlays/overlay_map.dtb", false}, {"overlays/bcm2712d0.dtbo", false},
			{"cmdline.txt", false}, {"armstub8-2712.bin", false}})
	}
	prefix, err := r.piPrefix(ctx, server, "start4.elf", "start.elf")
	if err != nil {
		return err
	}
	return r.piSequence(ctx, server, prefix, []piFile{{"config.txt", true}, {"vl805.sig", false}, {"pieeprom.sig", false},
		{"recover4.elf", false}, {"recovery.elf", false}, {"start4.elf", true}, {"fixup4.dat", true}, {"config.txt", true},
		{"dt-blob.bin", false}, {"bootcfg.txt", false}, {"initrd", false}, {"bcm2711-rpi-4-b.dtb", true},
		{"overlays/overlay_map.dtb", false}, {"cmdline.txt", false}, {"armstub8-gic.bin", false}, {"kernel8.img", true}})
}

// piFile is one that a Pi asks for; without a needed one it stops.
type piFile struct {
	name string
	need bool
}

func (r *run) piFiles(ctx context.Context, server netip.Addr, stage string, files ...piFile) error {
	for _, file := range files {
		f, _, err := r.tftp(ctx, stage, server, file.name, 0)
		if err != nil && (file.need || f.Failed == "") {
			return err
		}
	}
	return nil
}

// piPrefix finds out whether the board's files are in a folder of its own: its serial number's, if one of these is there.
func (r *run) piPrefix(ctx context.Context, server netip.Addr, probes ...string) (string, error) {
	dir := r.serial() + "/"
	for _, name := range probes {
		f, _, err := r.tftp(ctx, "probe", server, dir+name, 0)
		if err == nil {
			return dir, nil
		}
		if f.Failed == "" {
			return "", err
		}
	}
	return "", nil
}

// serial is the number that a Pi's DISCOVER ends with, little-endian, in option 97.
func (r *run) serial() string {
	id := r.ask.get(optUUID)
	if r.Serial != "" || len(id) != 17 {
		return r.Serial
	}
	number := slices.Clone(id[13:])
	slices.Reverse(number)
	return fmt.Sprintf("%x", number)
}

func (r *run) piSequence(ctx context.Context, server netip.Addr, prefix string, files []piFile) error {
	for i := range files {
		files[i].name = prefix + files[i].name
	}
	return r.piFiles(ctx, server, "file", files...)
}

// piTFTP is the options of a Pi's read request: none from the 3B's ROM.
func (r *run) piTFTP() []string {
	switch {
	case r.Kind == Pi4:
		return []string{"tsize", "0", "blksize", "1024"}
	case r.Kind == Pi5:
		return []string{"tsize", "0", "blksize", "1468"}
	case r.stage != "":
		return []string{"tsize", "0"}
	}
	return nil
}
