package pxe

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
	"provision/internal/tftp"
)

// What a Raspberry Pi finds on its TFTP server is a folder like that of its SD
// card: the board's firmware, from the tree that the operator added
// (images.Firmware), and made for the boot config.txt, cmdline.txt, the image's
// kernel and its first stage. A NixOS initrd is larger than the firmware can
// load: the first stage fetches it over HTTP by the boot's token.
//
// The image has no device trees, so those of the tree are served. The vendor's
// go with the vendor's kernel, and mostly with a mainline one; a mainline
// kernel's own can be added to the tree in their place.

// The names that config.txt gives to what is not in the tree. The name of the
// kernel tells the firmware nothing: it reads its first bytes, and arm_64bit.
const (
	piKernel  = "kernel"
	piInitrd  = "initrd"
	piConfig  = "config.txt"
	piCmdline = "cmdline.txt"
)

// Limits of the firmware, in bytes.
const (
	maxPiConfig     = 4096
	maxPiConfigLine = 98
	// maxPiCmdline is Linux' COMMAND_LINE_SIZE less what start.elf writes in front of it.
	maxPiCmdline = 2047 - 400
)

// maxBlocks is how many blocks a transfer can have until their number begins
// anew, which firmware before 2025-09-23 takes for the end (rpi-eeprom#720).
const maxBlocks = 65535

// piBlock is the block size that a board's firmware asks for at least. Where the
// board is not known, it is that of an EEPROM of before 2022-10.
func piBlock(board string) int64 {
	b, err := boards.Parse(board)
	if err != nil {
		return 1024
	}
	return b.TFTPBlock
}

// piTree is what one Raspberry Pi may fetch for one boot, by name.
type piTree struct {
	files map[string]images.File
	texts map[string]string
}

// piTree makes the folder for a host's boot. The error says what is missing, or
// does not fit, in words for the operator.
func (s *Server) piTree(h hosts.Host, p piBoard, img images.Image, made *builtStage) (t piTree, err error) {
	vendor, err := s.Images.Firmware(boards.RaspberryPi)
	if err != nil {
		return t, err
	}

	candidates, err := p.candidates()
	if err != nil {
		return t, err
	}

	t.files, err = p.firmwareFiles(candidates, vendor)
	if err != nil {
		return t, err
	}

	if h.AllowEEPROM {
		maps.Copy(t.files, vendor.EEPROM())
	}
	t.files[piKernel] = made.kernel
	t.files[piInitrd] = made.first

	kernel := piKernel
	if h.BootMethod.Offer == hosts.OfferUBoot {
		kernel, err = ubootFor(candidates, vendor)
		if err != nil {
			return t, err
		}
		t.files[kernel] = vendor.Files[kernel]
	}

	configTxt, err := configText(h, kernel)
	if err != nil {
		return t, err
	}

	cmdline, err := s.piCmdline(h, img)
	if err != nil {
		return t, err
	}

	t.texts = map[string]string{piConfig: configTxt, piCmdline: cmdline}
	return t, t.fits(piBlock(p.Board))
}

// firmwareFiles are what the board may load of the tree. Where it is not known
// which board it is, those of all candidates are there, and nothing is missed: it
// asks for what it needs.
func (p piBoard) firmwareFiles(candidates []boards.Board, vendor images.Firmware) (map[string]images.File, error) {
	all := map[string]images.File{}
	var lacks []string
	for _, b := range candidates {
		files := vendor.For(b, boards.TFTP)
		upstreamNames(files, b)
		maps.Copy(all, files)
		lacks = append(lacks, b.Missing(vendor.Names(), boards.TFTP)...)
	}

	if len(candidates) > 1 {
		return all, nil
	}

	_, hasTree := all[p.Tree]
	if lacks == nil && p.Tree != "" && !hasTree {
		lacks = []string{p.Tree}
	}
	if lacks != nil {
		return nil, fmt.Errorf("the firmware %s lacks %s, which it needs: add it from a source that has them, "+
			"with `provision images firmware add %s --from …`", vendor.Name, strings.Join(lacks, ", "), vendor.Name)
	}
	return all, nil
}

// ubootFor is the U-Boot that netboots a board, by its name in the tree. Where it
// is not known which board it is, it is that of the latest.
func ubootFor(candidates []boards.Board, vendor images.Firmware) (string, error) {
	b := candidates[len(candidates)-1]
	if len(candidates) == 1 && b.NoUBootNetwork != "" {
		return "", fmt.Errorf("U-Boot has no driver for its network: enroll it without --boot-method %s", hosts.OfferUBoot)
	}
	file := b.UBoot(vendor.Names())
	if file == "" {
		return "", fmt.Errorf("the firmware %s has no U-Boot for it: add one, such as Debian's package u-boot-rpi, "+
			"or enroll it without --boot-method %s", vendor.Name, hosts.OfferUBoot)
	}
	return file, nil
}

// upstreamNames gives the device trees of mainline Linux the names that the
// board's firmware asks for, too, where they differ.
func upstreamNames(files map[string]images.File, b boards.Board) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		asked := b.AskedName(name)
		if _, ok := files[asked]; !ok {
			files[asked] = files[name]
		}
	}
}

// fits checks that each file can be numbered in blocks of that size.
func (t piTree) fits(block int64) error {
	for _, name := range slices.Sorted(maps.Keys(t.files)) {
		if size := t.files[name].Size; size > maxBlocks*block {
			return fmt.Errorf("its %s has %d bytes, and its firmware loads at most %d over TFTP, %d blocks of %d: "+
				"take an image with a smaller one",
				name, size, maxBlocks*block, maxBlocks, block)
		}
	}
	return nil
}

// configText is the config.txt of a host's boot, which starts that kernel.
func configText(h hosts.Host, kernel string) (string, error) {
	lines := []string{
		"# provision: the installer of " + h.Name,
		"[all]",
		"arm_64bit=1",
		"enable_uart=1",
		"kernel=" + kernel,
	}
	if kernel == piKernel {
		lines = append(lines, "initramfs "+piInitrd+" followkernel")
	}
	for _, line := range append(lines, h.PiConfig...) {
		if len(line) > maxPiConfigLine {
			return "", fmt.Errorf("its config.txt would have a line of %d characters, of which the firmware reads "+
				"%d: shorten %q",
				len(line), maxPiConfigLine, line)
		}
	}

	text := strings.Join(append(lines, h.PiConfig...), "\n") + "\n"
	if len(text) > maxPiConfig {
		return "", fmt.Errorf("its config.txt would have %d bytes, of which the firmware reads %d: "+
			"give fewer lines with --config-txt", len(text), maxPiConfig)
	}
	return text, nil
}

// piCmdline is the cmdline.txt of a host's boot: the image's command line, and
// what the first stage needs.
func (s *Server) piCmdline(h hosts.Host, img images.Image) (string, error) {
	line, err := s.firstCmdline(h, img)
	if err == nil && len(line) > maxPiCmdline {
		err = fmt.Errorf("the kernel's command line would have %d bytes, of which %d fit: shorten that of image %s, "+
			"or take kernel parameters away with `provision set %s "+
			"--kernel-param`", len(line), maxPiCmdline, img.Name, h.Name)
	}
	return line + "\n", err
}

// firstCmdline is the command line of a kernel that is started with the first
// stage.
func (s *Server) firstCmdline(h hosts.Host, img images.Image) (string, error) {
	token := h.Boot.Token
	var tail []byte
	if token == "" { // it is looked at whether it will fit
		token, tail = strings.Repeat("0", 32), make([]byte, 2000)
	} else {
		var err error
		if _, tail, err = s.initrd(h, img); err != nil {
			return "", err
		}
	}

	url := s.url(h.Boot.Server, bootPath+token+"/initrd")
	params := []string{
		img.BootCmdline(h.KernelParams),
		images.FirstStageCmdline(url, img, tail),
		"BOOTIF=01-" + strings.ReplaceAll(h.Boot.MAC, ":", "-"),
	}
	return strings.Join(params, " "), nil
}

// needsMemory is the least memory that an image can run in, in bytes: its
// initrd, which stays in memory, the kernel, and what an installation takes. It
// is a lower bound: what is packed in the initrd is larger once unpacked.
func needsMemory(img images.Image) int64 { return img.Initrd.Size + 320<<20 }

// bootPi is the boot of a Raspberry Pi, empty if it is to have none (yet). All
// that may be in the way is looked at before the board is told anything, for
// firmware says little where it stops half-way.
func (s *Server) bootPi(l *servedLink, c bootClient, h hosts.Host) (hosts.Boot, error) {
	if s.fresh(h) && h.Boot.MAC == c.MAC {
		return s.boot(l, c, h)
	}
	p := c.Pi
	if p.Board == "" && isPi(h.Board) {
		p.Board = h.Board
	}
	img, err := s.Images.Get(h.Image)
	if err != nil {
		return s.boot(l, c, h) // it says what is wrong
	}

	next := h
	next.Boot = hosts.Boot{Server: l.self.String(), MAC: c.MAC}
	_, err = s.piTree(next, p, img, &builtStage{}) // making the rest takes seconds
	if err == nil && p.Memory > 0 && p.Memory < needsMemory(img) {
		err = fmt.Errorf("it has %d MiB of memory, and image %s needs at least %d MiB: take one with a smaller initrd",
			p.Memory>>20, img.Name, needsMemory(img)>>20)
	}
	if err != nil {
		s.refuse(c, h, err)
		return hosts.Boot{}, nil
	}

	made := s.firstStage(img)
	if made == nil {
		s.Log.Debug("the board's kernel and first stage are being made", "host", h.Name, "image", img.Name)
		return hosts.Boot{}, nil
	}
	if err = made.err; err == nil {
		_, err = s.piTree(next, p, img, made)
	}
	if err != nil {
		s.refuse(c, h, err)
		return hosts.Boot{}, nil
	}

	return s.boot(l, c, h)
}

// refuse tells why a machine is given nothing to boot.
func (s *Server) refuse(c bootClient, h hosts.Host, why error) {
	s.note(h, "%s asked to boot and was refused: %s", c, why)
	s.traceRefusal(c.MAC, why.Error())
}

// toldMore keeps what a machine tells of itself in a later stage of its boot.
func (s *Server) toldMore(c bootClient, h hosts.Host) (hosts.Boot, error) {
	if c.Pi.Serial == "" || h.Boot.Serial == c.Pi.Serial || h.Boot.Several {
		return h.Boot, nil
	}
	h, err := s.Hosts.NameBoard(h.Name, h.Boot, c.Pi.Serial)
	if s.clash(err) {
		return hosts.Boot{}, nil
	}
	return h.Boot, err
}

// clash tells both hosts if it is about a serial number that they both have.
func (s *Server) clash(err error) bool {
	var clash hosts.SerialClash
	if !errors.As(err, &clash) {
		return false
	}
	for _, name := range []string{clash.Too, clash.Has} {
		if h, err := s.Hosts.Get(name); err == nil {
			s.note(h, "a Raspberry Pi asked to boot and was refused: %s", clash)
		}
	}
	return true
}

// piName splits a name that a Raspberry Pi asks for into the folder of its own,
// which is called after its serial number or its MAC (TFTP_PREFIX 0 and 2 of its EEPROM), or is none, and the rest.
func piName(name string) (serial, mac, file string) {
	dir, rest, ok := strings.Cut(name, "/")
	switch {
	case ok && len(dir) == 8 && strings.Trim(dir, "0123456789abcdef") == "":
		return dir, "", rest
	case ok && len(dir) == 17 && strings.Count(dir, "-") == 5:
		if mac, err := hosts.ParseMAC(strings.ReplaceAll(dir, "-", ":")); err == nil {
			return "", mac, rest
		}
	}
	return "", "", name
}

// piBegins are the files that a Raspberry Pi asks for first. One that has its
// address and server from its EEPROM, or in mode Off, begins its boot so.
var piBegins = []string{"bootcode.bin", "start.elf", "start4.elf", "config.txt"}

// openPi opens a file for the Raspberry Pi of a host, and reports whether it is
// one that asks.
func (s *Server) openPi(l *servedLink, h hosts.Host, mac, name string) (f tftp.File, is bool, err error) {
	serial, folder, file := piName(name)
	p := piBoardOf(h)
	if !slices.Contains(piOUIs, mac[:8]) && p.Board == "" {
		return f, false, nil
	}
	if strings.HasPrefix(file, "pxelinux.cfg/") || s.programs[file] != nil { // it runs U-Boot or EDK2 by now
		return f, false, nil
	}
	if serial != "" && p.Serial != "" && serial != p.Serial || folder != "" && folder != mac {
		s.tellFolder(h, mac, name)
		return f, true, tftp.ErrNotFound
	}
	c := bootClient{MAC: mac, Kind: piROM, Pi: s.pis.fetched(mac)}
	c.Pi.Board, c.Pi.Serial = cmp.Or(c.Pi.Board, p.Board), cmp.Or(c.Pi.Serial, serial)
	if !s.fresh(h) || h.Boot.MAC != mac {
		if !slices.Contains(piBegins, path.Base(file)) || s.decide(c, &h).Load != tree {
			return f, true, tftp.ErrNotFound
		}
		if b, err := s.bootPi(l, c, h); err != nil || b.Token == "" {
			return f, true, errors.Join(tftp.ErrNotFound, err)
		}
		if h, err = s.Hosts.Get(h.Name); err != nil {
			return f, true, err
		}
	}

	f, err = s.piFile(h, p, file)
	return f, true, err
}

// piFile opens a file of the boot that the host has now. It binds the boot to
// nobody: that does the first stage, whose address may be another.
func (s *Server) piFile(h hosts.Host, p piBoard, file string) (f tftp.File, err error) {
	img, err := s.Images.Get(h.Image)
	if err != nil {
		return f, err
	}

	made := s.firstStage(img)
	if made == nil {
		return f, tftp.ErrNotServed // it asks again
	}
	if made.err != nil {
		return f, made.err
	}

	t, err := s.piTree(h, p, img, made)
	if err != nil {
		return f, err
	}

	file = t.meant(file)
	what, ok := t.files[file]
	body, isText := t.texts[file]
	switch {
	case isText:
		if file == piConfig { // the other comes before or after the kernel
			s.reached(h.Boot.MAC, hosts.StageScript)
		}
		return memoryFile([]byte(body)), nil
	case !ok:
		return f, tftp.ErrNotFound
	case file == piKernel, file == piInitrd:
		s.ladders.direct(h.Boot.MAC, hosts.Method{Offer: hosts.OfferPi})
		s.reached(h.Boot.MAC, hosts.Stage(file))
	default:
		s.reached(h.Boot.MAC, hosts.StageProgram)
	}

	content, err := s.Images.OpenFile(what)
	return tftp.File{Content: content, Size: what.Size}, err
}

// meant is the name of the file that is meant by a name. An EEPROM whose TFTP_PREFIX is 1 asks for everything in a
// folder that its owner has named (TFTP_PREFIX_STR), and for nothing outside it. The machine is known by then, so that
// the folder's name tells nothing more.
func (t piTree) meant(name string) string {
	_, isFile := t.files[name]
	_, isText := t.texts[name]
	folder, rest, ok := strings.Cut(name, "/")
	if isFile || isText || !ok || folder == "." || folder == ".." {
		return name
	}
	return rest
}

// tellFolder tells of a Raspberry Pi that is to boot and begins to in the folder of another one, where it gets nothing.
func (s *Server) tellFolder(h hosts.Host, mac, name string) {
	ok, _ := h.MayBoot(s.Now())
	if !ok || !slices.Contains(piBegins, path.Base(name)) {
		return
	}
	s.note(h, "%s asked for %s, which is in the folder of another Raspberry Pi, and got nothing: "+
		"set TFTP_PREFIX=0 in the configuration of its EEPROM; if it is another board than before, run `provision "+
		"retry %s`",
		mac, untold(name), h.Name)
}

// openBySerial serves a Raspberry Pi behind a router, where the kernel resolves
// no MAC: the one that told the serial number that its folder is called after,
// at the address that it was seen to take.
func (s *Server) openBySerial(l *servedLink, name string, from netip.AddrPort) (tftp.File, error) {
	serial, _, _ := piName(name)
	if serial == "" {
		return tftp.File{}, tftp.ErrNotServed
	}
	h, err := s.Hosts.BySerial(serial)
	if err != nil || h.Address != from.Addr().Unmap().String() || h.Boot.MAC == "" {
		return tftp.File{}, tftp.ErrNotServed
	}
	f, _, err := s.openPi(l, h, h.Boot.MAC, name)
	return f, err
}

// reachable sees that the machine is found while the file goes out: a 3B answers
// no ARP while it loads, so its entry among our neighbours, which came from its
// own question for us, is renewed.
func (l *servedLink) reachable(f tftp.File, h hosts.Host, from netip.AddrPort, mac string) tftp.File {
	b, err := boards.Parse(h.Boot.Board)
	if err != nil || !b.NoARP || f.Content == nil {
		return f
	}
	f.Content = &renewing{ReadCloser: f.Content, renew: func() { l.keepNeighbour(from.Addr().Unmap(), mac) }}
	return f
}

// renewing calls renew at the first read and then every two seconds: an entry
// that is used and not confirmed lasts five and a few.
type renewing struct {
	io.ReadCloser
	renew func()
	last  time.Time
}

func (r *renewing) Read(p []byte) (int, error) {
	if now := time.Now(); now.Sub(r.last) > 2*time.Second {
		r.last = now
		r.renew()
	}
	return r.ReadCloser.Read(p)
}
