package pxe

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"path"
	"strings"

	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
	"provision/internal/tftp"
)

// What machines load over TFTP. The names are
//
//	boot/TOKEN/PROGRAM                 iPXE
//	boot/TOKEN/pxelinux.cfg/01-MAC     for U-Boot
//	boot/TOKEN/kernel, …/initrd        for U-Boot
//	boot/hold/PROGRAM                  for strangers, with --unknown=hold
//	[SERIAL/|MAC/|FOLDER/]NAME         for a Raspberry Pi: its firmware and what config.txt names (pitree.go)
//	pxelinux.cfg/01-MAC                for a U-Boot that was told our address by hand
//	PROGRAM                            in mode Off, where no DHCP of ours hands out tokens
//
// The last three are for machines on the link whose MAC the kernel resolved, if
// they may boot. Names are compared, never joined to a path.

const bootPath = "boot/"

// open looks up a file that the machine at this address asks for by TFTP.
func (s *Server) open(l *servedLink, name string, from netip.AddrPort) (tftp.File, error) {
	rest, ok := strings.CutPrefix(name, bootPath)
	if !ok {
		return s.openByNeighbour(l, name, from)
	}
	token, name, _ := strings.Cut(rest, "/")
	if token == "hold" && s.Unknown == Hold {
		return s.program(l.neighbour(from.Addr()), name) // its ladder is remembered past its enrolment
	}
	h, err := s.Hosts.ByToken(token)
	if err != nil {
		return tftp.File{}, tftp.ErrNotServed
	}

	client := from.Addr().Unmap()
	mac := l.neighbour(client)
	if mac == "" && l.net.Contains(client) {
		return tftp.File{}, errors.Join(tftp.ErrUnresolved, l.ask(client))
	}
	if err := s.vouch(l, h, client, mac); err != nil {
		s.note(h, "%s asked for %s with the token of its boot and got no answer: %s", client, untold(name), err)
		return tftp.File{}, tftp.ErrNotServed
	}
	return s.openByToken(h, token, name, from)
}

// openByToken opens a file for the host's machine, which knows the token of a boot.
func (s *Server) openByToken(h hosts.Host, token, name string, from netip.AddrPort) (tftp.File, error) {
	if h.Boot.Token != token || !h.Boot.Serves(s.Now()) || h.State != hosts.StateBooting {
		return tftp.File{}, tftp.ErrNotFound // U-Boot would ask for ever; who had a token knows that we are here
	}
	return s.openOfBoot(h, name, "", from)
}

// openOfBoot opens a file of the boot that the host has now. folder leads from
// where the client looks to the boot's folder.
func (s *Server) openOfBoot(h hosts.Host, name, folder string, from netip.AddrPort) (tftp.File, error) {
	client := from.Addr().Unmap().String()
	switch name {
	case pxelinux(h.Boot.MAC):
		fetch := hosts.Fetch{Client: client, File: name, Method: hosts.Method{Offer: hosts.OfferUBoot}}
		h, err := s.Hosts.UseBoot(h.Boot.Token, fetch)
		if err != nil {
			return tftp.File{}, err
		}

		img, err := s.Images.Get(h.Image)
		if err != nil {
			return tftp.File{}, err
		}

		cmdline := img.BootCmdline(h.KernelParams) + " BOOTIF=01-" + strings.ReplaceAll(h.Boot.MAC, ":", "-")
		switch made, wait := s.ubootStage(h, img); {
		case wait:
			return tftp.File{}, tftp.ErrNotServed // it asks again
		case made != nil:
			if cmdline, err = s.firstCmdline(h, img); err != nil {
				return tftp.File{}, err
			}
		}

		s.reached(h.Boot.MAC, hosts.StageScript)
		return memoryFile([]byte(ubootConfig(h, cmdline, folder))), nil
	case "kernel", "initrd":
		h, err := s.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: client, File: name})
		if err != nil {
			return tftp.File{}, err
		}
		s.reached(h.Boot.MAC, hosts.Stage(name))
		return s.imageFile(h, name, client)
	}

	if !s.fresh(h) {
		return tftp.File{}, tftp.ErrNotFound
	}
	return s.program(h.Boot.MAC, name)
}

// meant is the program that a name means. Firmware that takes option 67 for a C string reads on behind it, until a NUL
// of what follows: the end of the options, or another option's number and length.
func (s *Server) meant(name string) string {
	unprintable := func(r rune) bool { return r < ' ' || r >= 0x7f }
	for known := range s.programs {
		if rest, ok := strings.CutPrefix(name, known); ok && strings.ContainsFunc(rest, unprintable) {
			return known
		}
	}
	return name
}

// program opens a boot program. The machine's ladder hears of it.
func (s *Server) program(mac, name string) (tftp.File, error) {
	data := s.programs[s.meant(name)]
	if data == nil {
		return tftp.File{}, tftp.ErrNotFound
	}
	s.ladders.note(mac, func(cl *climb) { cl.asked = true })
	s.reached(mac, hosts.StageProgram)
	f := memoryFile(data)
	f.Done = func(whole bool) {
		if whole { // firmware often asks for the size alone, too
			s.ladders.note(mac, func(cl *climb) { cl.loaded = true })
			s.reached(mac, hosts.StageLoaded)
		}
	}
	return f, nil
}

// openByNeighbour serves a machine that names no boot, if its MAC is known.
func (s *Server) openByNeighbour(l *servedLink, name string, from netip.AddrPort) (tftp.File, error) {
	mac := l.neighbour(from.Addr().Unmap())
	if mac == "" && l.net.Contains(from.Addr().Unmap()) {
		return tftp.File{}, errors.Join(tftp.ErrUnresolved, l.ask(from.Addr().Unmap()))
	}
	if mac == "" {
		return s.openBySerial(l, name, from)
	}
	if h, err := s.Hosts.ByMAC(mac); err == nil {
		f, is, err := s.openPi(l, h, mac, name)
		if is {
			return l.reachable(f, h, from, mac), err
		}
	}

	c := bootClient{MAC: mac, Kind: uboot, Arch: iana.UBOOT_ARM64}
	if name != pxelinux(mac) {
		c.Kind, c.Arch = pxeFirmware, programArch(name)
		if name = s.have(c, s.meant(name)); s.Mode != Off || name == "" {
			c.Kind = system // whatever it is after, there is an answer for those we know
		}
	}

	h, err := s.Hosts.ByMAC(mac)
	if errors.Is(err, hosts.ErrNotFound) {
		if s.Mode == Off {
			s.Hosts.See(hosts.Discovered{MAC: mac, Arch: c.String(), Board: c.board()})
		}
		if s.Unknown == Hold && s.Mode == Off && c.profile().firmware {
			return s.program("", name)
		}
		return tftp.File{}, tftp.ErrNotServed
	}
	if err != nil {
		return tftp.File{}, err
	}

	if a := s.decide(c, &h); a.Load == nothing || a.Load == local {
		return tftp.File{}, tftp.ErrNotFound
	}
	boot, err := s.boot(l, c, h)
	if err != nil || boot.Token == "" {
		return tftp.File{}, errors.Join(tftp.ErrNotFound, err)
	}

	h.Boot, h.State = boot, hosts.StateBooting
	return s.openOfBoot(h, name, bootPath+boot.Token+"/", from)
}

// programArch is the architecture of the clients that load a program.
func programArch(name string) iana.Arch {
	switch name {
	case images.ProgramSNPArm64, images.ProgramNativeArm64:
		return iana.EFI_ARM64
	case images.ProgramSNP, images.ProgramNative:
		return iana.EFI_X86_64
	}
	return iana.INTEL_X86PC
}

// have is the program that this client asks for, or the other kind of iPXE for
// it, where that is what we have; "" if it asks for none.
func (s *Server) have(c bootClient, name string) string {
	st := stepsFor(c, s.Mode, s.programs)
	firmware, native := programFile(c, hosts.DriverFirmware), programFile(c, hosts.DriverNative)
	switch {
	case name != firmware && name != native || len(st.programs) == 0:
		return ""
	case s.programs[name] == nil:
		return programFile(c, st.programs[0])
	}
	return name
}

// maxUBootArgs is the least that U-Boot's "append" may have, in bytes
// (CONFIG_SYS_CBSIZE, with its NUL): a longer one starts nothing.
const maxUBootArgs = 1023

// ubootStage is the first stage for a U-Boot on arm64: TFTP is slow, block by
// block, and an initrd of hundreds of megabytes is more than U-Boot has room
// for. nil is the image's own initrd, where there can be no first stage. With wait
// it is being made.
func (s *Server) ubootStage(h hosts.Host, img images.Image) (made *builtStage, wait bool) {
	if img.Arch != images.AArch64 {
		return nil, false
	}
	if made = s.firstStage(img); made == nil {
		return nil, true
	}
	line, err := s.firstCmdline(h, img)
	if made.err != nil || err != nil || len(line) > maxUBootArgs {
		s.Log.Debug("no first stage for U-Boot", "host", h.Name, "image", img.Name,
			"err", errors.Join(made.err, err), "bytes", len(line))
		return nil, false
	}
	return made, false
}

// imageFile opens the kernel or the initrd of a host's image, the initrd with
// the boot's overlay, or its first stage. When both are out whole, in whichever order, the token is
// used up.
func (s *Server) imageFile(h hosts.Host, name, client string) (tftp.File, error) {
	img, err := s.Images.Get(h.Image)
	if err != nil {
		return tftp.File{}, err
	}

	what, tail := img.Kernel, []byte(nil)
	switch made, wait := s.ubootStage(h, img); {
	case wait:
		return tftp.File{}, tftp.ErrNotServed
	case made != nil:
		if name == "initrd" || s.Images.OnlyUEFI(img) {
			what = map[string]images.File{"kernel": made.kernel, "initrd": made.first}[name]
		}
		f, err := s.Images.OpenFile(what)
		return tftp.File{Content: f, Size: what.Size}, err
	}

	if name == "initrd" {
		if what, tail, err = s.initrd(h, img); err != nil {
			return tftp.File{}, err
		}
	}

	f, err := s.Images.OpenFile(what)
	if err != nil {
		return tftp.File{}, err
	}

	both := struct {
		io.Reader
		io.Closer
	}{io.MultiReader(f, bytes.NewReader(tail)), f}
	begun, size := s.Now(), what.Size+int64(len(tail))
	return tftp.File{Content: both, Size: size, Done: func(whole bool) {
		if whole && s.ladders.other(h.Name, h.Boot.Token, name) {
			s.started(h, client, hosts.Work{Bytes: size, Over: "tftp", Took: s.Now().Sub(begun)})
		}
	}}, nil
}

// started uses the boot up: its installer has all it needs. last is the last file.
func (s *Server) started(h hosts.Host, client string, last hosts.Work) {
	whole := hosts.Fetch{Client: client, File: "initrd whole", Whole: true, Work: &last}
	if _, err := s.Hosts.UseBoot(h.Boot.Token, whole); err != nil && !overtaken(err) {
		s.Log.Error("use a boot up", "host", h.Name, "err", err)
	}
	s.reached(h.Boot.MAC, hosts.StageStarted)
}

// memoryFile is a file with this content.
func memoryFile(content []byte) tftp.File {
	return tftp.File{
		Content:  io.NopCloser(bytes.NewReader(content)),
		Size:     int64(len(content)),
		InMemory: true,
	}
}

// pxelinux is the name of a machine's configuration, as PXELINUX and U-Boot
// ask for it: ARP hardware type and MAC, lower case, with dashes.
func pxelinux(mac string) string {
	return path.Join("pxelinux.cfg", "01-"+strings.ReplaceAll(mac, ":", "-"))
}
