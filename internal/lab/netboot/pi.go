package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	dtb := "bcm2710-rpi-3-b.dtb"
	if r.Kind == Pi3BPlus {
		dtb = "bcm2710-rpi-3-b-plus.dtb"
	}
	lease, server, err := r.piOffers(ctx, waits, pi3Server)
	if err != nil {
		return err
	}
	if err := r.take(lease.yiaddr()); err != nil {
		return err
	}
	if _, err := r.piFile(ctx, server, piFile{"bootcode.bin", "program", true}); err != nil {
		return r.elsewhere(err)
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
	if _, err := r.piFile(ctx, server, piFile{"bootsig.bin", "file", false}); err != nil {
		return err
	}
	prefix, err := r.piPrefix(ctx, server, "start.elf")
	if err != nil {
		return err
	}
	c := piConfig{kernel: "kernel8.img"}
	for _, file := range []piFile{optional("autoboot.txt"), optional("config.txt"), optional("recovery.elf"), needed("start.elf"), needed("fixup.dat"),
		optional("config.txt"), optional("dt-blob.bin"), optional("bootcfg.txt")} {
		if err := r.piConfigured(ctx, server, prefix, file, &c); err != nil {
			return err
		}
	}
	files := []piFile{optional("recovery8.img"), needed(dtb), optional("overlays/overlay_map.dtb"), optional(c.cmdline()), optional("armstub8.bin"), c.image()}
	return r.piSequence(ctx, server, prefix, slices.Insert(files, 1, c.ramdisks()...))
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
		return r.pi5Files(ctx, server)
	}
	prefix, err := r.piPrefix(ctx, server, "start4.elf", "start.elf")
	if err != nil {
		return err
	}
	c := piConfig{kernel: "kernel8.img"}
	for _, file := range []piFile{needed("config.txt"), optional("vl805.sig"), optional("pieeprom.sig"), optional("recover4.elf"), optional("recovery.elf"),
		needed("start4.elf"), needed("fixup4.dat"), needed("config.txt"), optional("dt-blob.bin"), optional("bootcfg.txt")} {
		if err := r.piConfigured(ctx, server, prefix, file, &c); err != nil {
			return r.elsewhere(err)
		}
	}
	files := []piFile{needed("bcm2711-rpi-4-b.dtb"), optional("overlays/overlay_map.dtb"), optional(c.cmdline()), optional("armstub8-gic.bin"), c.image()}
	return r.piSequence(ctx, server, prefix, append(c.ramdisks(), files...))
}

// pi5Files is the rest of a Pi 5, whose start program is in its EEPROM.
func (r *run) pi5Files(ctx context.Context, server netip.Addr) error {
	prefix, err := r.piPrefix(ctx, server, "config.txt")
	if err != nil {
		return err
	}
	c := piConfig{kernel: "kernel_2712.img"}
	for _, file := range []piFile{needed("config.txt"), optional("pieeprom.sig")} {
		if err := r.piConfigured(ctx, server, prefix, file, &c); err != nil {
			return r.elsewhere(err)
		}
	}
	files := []piFile{needed("bcm2712-rpi-5-b.dtb"), c.image()}
	files = append(append(files, c.ramdisks()...), optional("overlays/overlay_map.dtb"), optional("overlays/bcm2712d0.dtbo"),
		optional("/"+c.cmdline()), optional("armstub8-2712.bin"))
	return r.piSequence(ctx, server, prefix, files)
}

// piFile is one that a Pi asks for; without a needed one it stops.
type piFile struct {
	name  string
	stage string
	need  bool
}

func optional(name string) piFile { return piFile{name, "file", false} }
func needed(name string) piFile   { return piFile{name, "file", true} }

// piConfig is what a config.txt says about what is loaded.
type piConfig struct {
	kernel    string
	initramfs string
	cmdlines  string
}

func (c piConfig) cmdline() string {
	if c.cmdlines != "" {
		return c.cmdlines
	}
	return "cmdline.txt"
}

func (c piConfig) image() piFile { return piFile{c.kernel, "kernel", true} }

func (c piConfig) ramdisks() []piFile {
	if c.initramfs == "" {
		return nil
	}
	return []piFile{{c.initramfs, "initrd", true}}
}

// read takes what the firmware reads: 4096 bytes, and lines of 98 characters. Sections that are not for all are left out.
func (c *piConfig) read(text string) (faults []string) {
	if len(text) > 4096 {
		faults = append(faults, fmt.Sprintf("config.txt has %d bytes, of which 4096 are read", len(text)))
		text = text[:4096]
	}
	section := "[all]"
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) > 98 {
			faults = append(faults, fmt.Sprintf("config.txt has a line of %d characters: %s", len(line), line))
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		switch words := strings.Fields(line); {
		case section != "[all]":
		case ok && key == "kernel":
			c.kernel = value
		case ok && key == "cmdline":
			c.cmdlines = value
		case len(words) >= 2 && words[0] == "initramfs":
			c.initramfs = words[1]
		}
	}
	return faults
}

// piConfigured fetches a file, and reads it if it is config.txt.
func (r *run) piConfigured(ctx context.Context, server netip.Addr, prefix string, file piFile, c *piConfig) error {
	name := file.name
	file.name = prefix + name
	body, err := r.piFile(ctx, server, file)
	if err == nil && name == "config.txt" {
		for _, fault := range c.read(string(body)) {
			r.remark("%s", fault)
		}
	}
	return err
}

// errMissing is that the server has not what a Pi cannot do without: it goes on to the next in its boot order.
type errMissing struct{ error }

func (e errMissing) Unwrap() error { return e.error }

// elsewhere is where a Pi is that was told that nothing is there for it: at its next boot mode, its own disk.
func (r *run) elsewhere(err error) error {
	var missing errMissing
	if errors.As(err, &missing) {
		r.res.Local = true
		return errReached
	}
	return err
}

// piFile fetches a file; that one is missing is an error only if it is needed.
func (r *run) piFile(ctx context.Context, server netip.Addr, file piFile) ([]byte, error) {
	body, err := r.piSaved(ctx, server, file)
	switch f := r.res.Fetched[len(r.res.Fetched)-1]; {
	case err != nil && f.Failed != "" && file.need:
		return nil, errMissing{err}
	case err != nil && f.Failed != "":
		return nil, nil
	}
	return body, err
}

// piSaved fetches a file, and keeps kernel and initrd if it is to.
func (r *run) piSaved(ctx context.Context, server netip.Addr, file piFile) (body []byte, err error) {
	if r.Save == "" || file.stage != "kernel" && file.stage != "initrd" {
		_, body, err = r.tftp(ctx, file.stage, server, file.name, 0)
		return body, err
	}
	f, err := os.Create(filepath.Join(r.Save, file.stage))
	if err != nil {
		return nil, err
	}
	r.save = f
	_, body, err = r.tftp(ctx, file.stage, server, file.name, 0)
	r.save = nil
	if closed := f.Close(); err == nil {
		err = closed
	}
	return body, err
}

// piPrefix finds out whether the board's files are in a folder of its own: its serial number's, if one of these is there.
// It asks for their size, and then says that this is all.
func (r *run) piPrefix(ctx context.Context, server netip.Addr, probes ...string) (string, error) {
	dir := r.serial() + "/"
	for _, name := range probes {
		f, _, err := r.tftp(ctx, "probe", server, dir+name, -1)
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
	return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(id[13:]))
}

// piID is option 97 of a Pi with this MAC: the recorded one with the machine's own serial number, which ends like its MAC,
// as a Pi 3's does.
func (c Client) piID(id []byte, mac []byte) {
	if len(id) != 17 || c.MAC == nil && c.Serial == "" || c.Kind == Pi3B {
		return
	}
	serial := uint32(id[16])<<24 | uint32(mac[3])<<16 | uint32(mac[4])<<8 | uint32(mac[5])
	if n, err := strconv.ParseUint(c.Serial, 16, 32); err == nil {
		serial = uint32(n)
	}
	if c.Kind == Pi3BPlus {
		for i := 1; i < 17; i += 4 {
			binary.LittleEndian.PutUint32(id[i:], serial)
		}
		return
	}
	if c.Revision != 0 {
		binary.LittleEndian.PutUint32(id[5:], c.Revision)
	}
	copy(id[9:13], mac[2:])
	binary.LittleEndian.PutUint32(id[13:], serial)
}

// piSequence fetches the rest, of which it makes the kernel's command line.
func (r *run) piSequence(ctx context.Context, server netip.Addr, prefix string, files []piFile) error {
	for _, file := range files {
		name := file.name
		file.name = prefix + name
		body, err := r.piFile(ctx, server, file)
		if err != nil {
			return err
		}
		if strings.HasSuffix(name, ".txt") {
			r.res.Args, _, _ = strings.Cut(string(body), "\n")
		}
	}
	return nil
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
