package images

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"provision/internal/initrd"
)

// Inspection is what an image's kernel and initrd reveal when they are added. What could not be found out is "" or
// "unknown".
type Inspection struct {
	Stage1   string   `json:"stage1"`          // kind of /init: "systemd", "script" or "program"
	Contract Answer   `json:"contract"`        // stage 1 takes ssh/authorized_keys from the initrd's root, as installer images do
	SSHD     Answer   `json:"sshd"`            // the system has sshd; unknown if it is in a squashfs
	Squashfs bool     `json:"squashfs"`        // the system, and with it its kernel modules, is in a squashfs or erofs
	Kernel   string   `json:"kernel"`          // version of the kernel, "6.12.30"
	Modules  []string `json:"modules"`         // kernel versions for which the initrd has modules
	NICs     []string `json:"nics"`            // those of NetworkDrivers that are in the initrd or built into the kernel
	Error    string   `json:"error,omitempty"` // why the initrd could not be inspected
}

// Answer is the answer to a question about an image.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// NetworkDrivers returns the names of the kernel modules for network cards that are common in machines of this
// architecture.
func NetworkDrivers(arch Arch) []string {
	if arch == AArch64 {
		return []string{"genet", "macb", "lan78xx", "smsc95xx", "virtio_net"} // Raspberry Pi 4, 5, 3B+ and 3B; virtual machines
	}
	return []string{"e1000e", "igb", "igc", "r8169", "ixgbe", "virtio_net", "tg3", "bnxt_en"}
}

// inspect reads the kernel and the initrd. An error means that the initrd is damaged, so that the kernel could not read
// it either.
func inspect(arch Arch, kernel, initrdFile io.Reader) (*Inspection, error) {
	l := &inspecting{
		drivers: NetworkDrivers(arch),
		scripts: map[string]bool{},
		modules: map[string]bool{},
		nics:    map[string]bool{},
	}
	var err error
	if l.Kernel, err = kernelVersion(arch, kernel); err != nil {
		return nil, fmt.Errorf("look into the kernel: %w", err)
	}

	err = initrd.Walk(initrdFile, l.file)
	switch {
	case errors.Is(err, initrd.ErrNoDecoder):
		return &Inspection{Kernel: l.Kernel, Contract: Unknown, SSHD: Unknown, Error: err.Error()}, nil
	case err != nil:
		return nil, err
	}

	return l.result(), nil
}

// inspecting is an Inspection that is being collected.
type inspecting struct {
	Inspection
	drivers  []string
	init     string          // target of the link /init
	scripts  map[string]bool // names of files that begin with #!
	modules  map[string]bool // kernel versions that have modules
	nics     map[string]bool // drivers that were found
	restores bool            // stage 1 takes the keys from the initrd
	sshd     bool
}

// maxLooked is the size in bytes above which files are not read: stage 1 and its units are small.
const maxLooked = 256 << 10

// maxReleases bounds how many kernel versions are listed.
const maxReleases = 20

var (
	takesKeys   = regexp.MustCompile(`(?m)(?:^|[\s"'=(])/?ssh/authorized_keys(?:[\s"';)\]]|$)`)
	moduleFile  = regexp.MustCompile(`(?:^|/)lib/modules/([^/]+)/.*?([^/]+)\.ko(?:\.xz|\.zst|\.gz)?$`)
	builtinFile = regexp.MustCompile(`(?:^|/)lib/modules/[^/]+/modules\.builtin$`)
)

// file examines one file of the initrd.
func (l *inspecting) file(name string, h initrd.Header, content io.Reader) error {
	if m := moduleFile.FindStringSubmatch(name); m != nil {
		if len(l.modules) < maxReleases {
			l.modules[m[1]] = true
		}
		l.nic(m[2])
		return nil
	}

	switch base := path.Base(name); {
	case base == "sshd" && strings.Contains(name, "bin/"):
		l.sshd = true
	case strings.HasSuffix(base, ".squashfs"), strings.HasSuffix(base, ".erofs"):
		l.Squashfs = true
	}

	switch h.Type() {
	case fs.ModeSymlink:
		if h.Size > maxLooked {
			return fmt.Errorf("the link %s leads to a name of %d bytes", name, h.Size)
		}
		to, err := io.ReadAll(content)
		if name == "init" {
			l.init = string(to)
		}
		return err
	case 0:
		if builtinFile.MatchString(name) {
			return l.builtin(content)
		}
		if h.Size > maxLooked {
			return nil
		}
		text, err := io.ReadAll(content)
		if err == nil {
			l.text(name, text)
		}
		return err
	}

	return nil
}

// text examines the contents of a small file.
func (l *inspecting) text(name string, text []byte) {
	if bytes.HasPrefix(text, []byte("#!")) {
		l.scripts[name] = true
	}
	if bytes.Contains(text, []byte("root/.ssh")) && takesKeys.Match(text) { // the cheap test comes first
		l.restores = true
	}
}

// nic records a module, if it is the driver of a common network card. Module names have underscores where file names
// may have hyphens.
func (l *inspecting) nic(module string) {
	if name := strings.ReplaceAll(module, "-", "_"); slices.Contains(l.drivers, name) {
		l.nics[name] = true
	}
}

// builtin reads modules.builtin, which lists the modules that are built into the kernel.
func (l *inspecting) builtin(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		l.nic(strings.TrimSuffix(path.Base(lines.Text()), ".ko"))
	}
	return lines.Err()
}

// result completes the inspection.
func (l *inspecting) result() *Inspection {
	switch {
	case strings.Contains(l.init, "systemd"):
		l.Stage1 = "systemd"
	case l.scripts["init"] || l.scripts[path.Clean("/" + l.init)[1:]]:
		l.Stage1 = "script"
	default:
		l.Stage1 = "program"
	}

	l.Contract = answer(l.restores, l.Stage1 == "program")
	l.SSHD = answer(l.sshd, l.Squashfs)
	l.Modules = slices.Sorted(maps.Keys(l.modules))
	for _, d := range l.drivers { // keeps the order of the drivers
		if l.nics[d] {
			l.NICs = append(l.NICs, d)
		}
	}

	return &l.Inspection
}

// answer returns Yes for what was seen, and else Unknown if it may be in a hidden place.
func answer(seen, hidden bool) Answer {
	switch {
	case seen:
		return Yes
	case hidden:
		return Unknown
	}
	return No
}

// kernelVersion returns a kernel's version; "" if it cannot be found.
func kernelVersion(arch Arch, kernel io.Reader) (string, error) {
	in := bufio.NewReaderSize(kernel, 1<<16)
	head, err := in.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}

	switch {
	case arch == X86_64 && len(head) >= 0x210 && string(head[0x202:0x206]) == "HdrS":
		return bzImageVersion(in, int(binary.LittleEndian.Uint16(head[0x20e:])))
	// An EFI zboot image (drivers/firmware/efi/libstub/zboot-header.S of Linux).
	case len(head) >= 0x1c && string(head[4:8]) == "zimg":
		if _, err := in.Discard(int(binary.LittleEndian.Uint32(head[8:]))); err != nil {
			return "", nil // it is truncated and will not boot, but that is not checked here
		}
	}

	out, err := initrd.Decompress(in)
	if err != nil {
		return "", nil
	}
	defer out.Close()

	return findVersion(io.LimitReader(out, maxKernel))
}

// aVersion matches a kernel version at the beginning of a text.
var aVersion = regexp.MustCompile(`^[0-9]+\.[0-9][^\s(]*`)

// bzImageVersion reads the version at the offset that the setup header has (kernel_version in
// Documentation/arch/x86/boot.rst of Linux).
func bzImageVersion(in *bufio.Reader, at int) (string, error) {
	if at == 0 {
		return "", nil
	}
	if _, err := in.Discard(at + 0x200); err != nil {
		return "", nil
	}
	text, _ := in.Peek(128)
	return string(aVersion.Find(text)), nil
}

// findVersion searches for the banner of a kernel: "Linux version 6.12.30 (…".
func findVersion(r io.Reader) (string, error) {
	banner := []byte("Linux version ")
	buf := make([]byte, 0, 1<<20)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		for rest := buf; ; {
			_, after, found := bytes.Cut(rest, banner)
			if v := aVersion.Find(after); v != nil && len(v) < len(after) {
				return string(v), nil
			}
			if !found {
				break
			}
			rest = after
		}
		if err != nil { // whether the end or damage, no version was found
			return "", nil
		}

		const overlap = 256
		buf = buf[:copy(buf, buf[len(buf)-overlap:])]
	}
}
