package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"strings"

	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
)

// What machines load over TFTP. The names are
//
//	boot/TOKEN/PROGRAM                 iPXE
//	boot/TOKEN/pxelinux.cfg/01-MAC     for U-Boot
//	boot/TOKEN/kernel, …/initrd        for U-Boot
//	boot/hold/PROGRAM                  for strangers, with --unknown=hold
//	pxelinux.cfg/01-MAC                for a U-Boot that was told our address by hand
//	PROGRAM                            in mode Off, where no DHCP of ours hands out tokens
//
// The last two are for machines on the link whose MAC the kernel resolved, if
// they may boot. Names are compared, never joined to a path.

const bootPath = "boot/"

var (
	errNotServed = errors.New("not served") // to be met with silence: a stranger learns nothing
	errNoFile    = errors.New("file not found")
)

// file is something that a machine may have, and what follows when it has it.
type file struct {
	io.ReaderAt
	size int64 // bytes
	done func(whole bool)
}

// open looks up a file that the machine at this address asks for by TFTP.
func (s *Server) open(l *link, name string, from netip.AddrPort) (file, error) {
	name = strings.TrimPrefix(strings.ReplaceAll(name, "//", "/"), "/")
	rest, ok := strings.CutPrefix(name, bootPath)
	if !ok {
		return s.openByNeighbour(l, name, from)
	}
	token, name, _ := strings.Cut(rest, "/")
	if token == "hold" && s.Hold {
		return s.program("", name, nil)
	}
	h, err := s.Hosts.ByToken(token)
	if err != nil || h.Boot.Token != token || !h.Boot.Serves(s.Now()) || h.State != hosts.Booting {
		return file{}, errNotServed
	}
	return s.openOfBoot(l, h, name, from)
}

// openOfBoot opens a file of the boot that the host has now.
func (s *Server) openOfBoot(l *link, h hosts.Host, name string, from netip.AddrPort) (file, error) {
	client := from.Addr().Unmap().String()
	switch name {
	case pxelinux(h.Boot.MAC):
		h, err := s.claim(h.Boot.Token, client, name, hosts.Method{Offer: hosts.OfferUBoot})
		if err != nil {
			return file{}, err
		}
		img, err := s.Images.Get(h.Image)
		if err != nil {
			return file{}, err
		}
		s.traceFile(h.Boot.MAC, s.said(l, from, "U-Boot fetched its configuration"), hosts.StageScript)
		return text(s.ubootConfig(h, img.Cmdline)), nil
	case "kernel", "initrd":
		h, err := s.claim(h.Boot.Token, client, name, hosts.Method{})
		if err != nil {
			return file{}, err
		}
		s.traceFile(h.Boot.MAC, s.said(l, from, name+" by TFTP"), hosts.Stage(name))
		return s.imageFile(h, name, client)
	}
	if !s.fresh(h) {
		return file{}, errNotServed
	}
	return s.program(h.Boot.MAC, name, func(stage hosts.Stage) {
		s.traceFile(h.Boot.MAC, s.said(l, from, string(stage)+" "+name), stage)
	})
}

// program opens a boot program. The machine's ladder hears of it, and so does
// tell, which may be nil.
func (s *Server) program(mac, name string, tell func(hosts.Stage)) (file, error) {
	data := s.programs[name]
	if data == nil {
		return file{}, errNoFile
	}
	s.ladders.note(mac, func(cl *climb) { cl.asked = true })
	if tell != nil {
		tell(hosts.StageProgram)
	}
	f := file{ReaderAt: bytes.NewReader(data), size: int64(len(data))}
	f.done = func(whole bool) {
		if !whole {
			return // to ask for the size alone is customary, too
		}
		s.ladders.note(mac, func(cl *climb) { cl.loaded = true })
		if tell != nil {
			tell(hosts.StageLoaded)
		}
	}
	return f, nil
}

// openByNeighbour serves a machine that names no boot, if its MAC is known.
func (s *Server) openByNeighbour(l *link, name string, from netip.AddrPort) (file, error) {
	mac := l.neighbour(from.Addr().Unmap())
	if mac == "" {
		return file{}, errNotServed
	}
	c := client{MAC: mac, Kind: uboot, Arch: iana.UBOOT_ARM64}
	if name != pxelinux(mac) {
		if c.Kind, c.Arch = firmware, programArch(name); s.Mode != Off || s.programs[name] == nil {
			c.Kind = system // whatever it is after, there is an answer for those we know
		}
	}
	h, err := s.Hosts.ByMAC(mac)
	if errors.Is(err, hosts.ErrNotFound) {
		if s.Mode == Off {
			s.Hosts.See(hosts.Discovered{MAC: mac, Arch: c.String()})
		}
		if s.Hold && s.Mode == Off && c.Kind == firmware {
			return s.program("", name, nil)
		}
		return file{}, errNotServed
	}
	if err != nil {
		return file{}, err
	}
	if a := s.decide(c, &h); a.Load == nothing || a.Load == local {
		return file{}, errNoFile
	}
	boot, err := s.boot(l, c, h)
	if err != nil || boot.Token == "" {
		return file{}, errors.Join(errNoFile, err)
	}
	h.Boot, h.State = boot, hosts.Booting
	return s.openOfBoot(l, h, name, from)
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

// claim binds a boot to the client that fetches a file of it. The first to use
// the token has it.
func (s *Server) claim(token, client, name string, how hosts.Method) (hosts.Host, error) {
	h, err := s.Hosts.ByToken(token)
	if err == nil && s.Mode == Full && h.Address != "" && h.Address != client {
		// The token went out by broadcast; the lease says whose it is.
		err = fmt.Errorf("%w: %s has the lease of %s", hosts.ErrRefused, h.Name, h.Address)
	}
	if err != nil {
		return h, err
	}
	return s.Hosts.UseBoot(token, hosts.Fetch{Client: client, File: name, Method: how})
}

// imageFile opens the kernel or the initrd of a host's image, the initrd with
// the boot's overlay. When its last byte is out, the token is used up.
func (s *Server) imageFile(h hosts.Host, name, client string) (file, error) {
	img, err := s.Images.Get(h.Image)
	if err != nil {
		return file{}, err
	}
	what, tail := img.Kernel, []byte(nil)
	if name == "initrd" {
		if what, tail, err = s.initrd(h, img); err != nil {
			return file{}, err
		}
	}
	f, err := s.Images.OpenFile(what)
	if err != nil {
		return file{}, err
	}
	return file{ReaderAt: joined{f, what.Size, tail}, size: what.Size + int64(len(tail)), done: func(whole bool) {
		f.Close()
		if whole && name == "initrd" {
			s.started(h, client)
		}
	}}, nil
}

// initrd is the image's initrd, and what is appended to it for one boot.
func (s *Server) initrd(h hosts.Host, img images.Image) (images.File, []byte, error) {
	cpio, err := s.overlay(h)
	return img.Initrd, append(make([]byte, images.Padding(img.Initrd.Size)), cpio...), err
}

// started uses the boot up: its installer has all it needs.
func (s *Server) started(h hosts.Host, client string) {
	if _, err := s.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: client, File: "initrd whole", Whole: true}); err != nil && !errors.Is(err, hosts.ErrRefused) {
		s.Log.Error("use a boot up", "host", h.Name, "err", err)
	}
	s.Traces.Note(h.Boot.MAC, func(tr *hosts.Trace) { tr.Stage, tr.Last = hosts.StageStarted, s.Now() })
}

// joined is a file with bytes appended.
type joined struct {
	f    *os.File
	size int64
	tail []byte
}

// ReadAt implements io.ReaderAt.
func (j joined) ReadAt(p []byte, at int64) (n int, err error) {
	if at < j.size {
		if n, err = j.f.ReadAt(p[:min(int64(len(p)), j.size-at)], at); err != nil && err != io.EOF || n == len(p) {
			return n, err
		}
		at += int64(n)
	}
	m, err := bytes.NewReader(j.tail).ReadAt(p[n:], at-j.size)
	return n + m, err
}

func text(s string) file {
	return file{ReaderAt: strings.NewReader(s), size: int64(len(s)), done: func(bool) {}}
}

// said is what a machine said over TFTP or HTTP, in words.
func (s *Server) said(l *link, from netip.AddrPort, words string) hosts.Packet {
	return hosts.Packet{From: from, To: netip.AddrPortFrom(l.self, 69), Text: words}
}

// pxelinux is the name of a machine's configuration, as PXELINUX and U-Boot
// ask for it: ARP hardware type and MAC, lower case, with dashes.
func pxelinux(mac string) string {
	return path.Join("pxelinux.cfg", "01-"+strings.ReplaceAll(mac, ":", "-"))
}
