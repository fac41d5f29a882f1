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

// A Look is what an image's kernel and initrd tell of themselves when they are
// added. What could not be seen is "" or "unknown".
type Inspection struct {
	Stage1   string   `json:"stage1"`   // what /init is: "systemd", "script" or "program"
	Contract Answer   `json:"contract"` // stage 1 takes ssh/authorized_keys from the initrd's root, as installer images do
	SSHD     Answer   `json:"sshd"`     // it has sshd; unknown where the system is in a squashfs
	Squashfs bool     `json:"squashfs"` // the system is in a squashfs, its own kernel modules too
	Kernel   string   `json:"kernel"`   // the kernel's version, "6.12.30"
	Modules  []string `json:"modules"`  // kernel versions for which the initrd holds modules
	NICs     []string `json:"nics"`     // drivers of NetworkDrivers that the initrd holds, or the kernel has built in
	Error    string   `json:"error,omitempty"`
}

// Answer is "yes", "no" or "unknown".
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// NetworkDrivers are the kernel modules that drive the network cards which
// machines commonly have, by architecture.
func NetworkDrivers(arch Arch) []string {
	if arch == AArch64 {
		return []string{"genet", "macb", "lan78xx", "smsc95xx", "virtio_net"} // Raspberry Pi 4, 5, 3B+, 3B; virtual machines
	}
	return []string{"e1000e", "igb", "igc", "r8169", "ixgbe", "virtio_net", "tg3", "bnxt_en"}
}

// inspect reads the kernel and the initrd. An error says that the initrd is
// damaged: the kernel would stumble over it, too.
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

// inspecting is a Look in the making.
type inspecting struct {
	Inspection
	drivers  []string
	init     string          // where the link /init leads
	scripts  map[string]bool // by name: files that start with #!
	modules  map[string]bool // by version
	nics     map[string]bool // by driver
	restores bool
	sshd     bool
}

// Files of more bytes are not read: stage 1 and its units are small.
const maxLooked = 256 << 10

// Of so many kernels at most an initrd's modules are told.
const maxReleases = 20

var (
	takesKeys   = regexp.MustCompile(`(?m)(?:^|[\s"'=(])/?ssh/authorized_keys(?:[\s"';)\]]|$)`)
	moduleFile  = regexp.MustCompile(`(?:^|/)lib/modules/([^/]+)/.*?([^/]+)\.ko(?:\.xz|\.zst|\.gz)?$`)
	builtinFile = regexp.MustCompile(`(?:^|/)lib/modules/[^/]+/modules\.builtin$`)
)

// file sees one file of the initrd.
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

func (l *inspecting) text(name string, text []byte) {
	if bytes.HasPrefix(text, []byte("#!")) {
		l.scripts[name] = true
	}
	if bytes.Contains(text, []byte("root/.ssh")) && takesKeys.Match(text) { // the cheap one first
		l.restores = true
	}
}

// nic takes note of a module, if it is one of a common network card. Module
// names have underscores, their files may have hyphens.
func (l *inspecting) nic(module string) {
	if name := strings.ReplaceAll(module, "-", "_"); slices.Contains(l.drivers, name) {
		l.nics[name] = true
	}
}

func (l *inspecting) builtin(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		l.nic(strings.TrimSuffix(path.Base(lines.Text()), ".ko"))
	}
	return lines.Err()
}

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
	for _, d := range l.drivers { // in their order
		if l.nics[d] {
			l.NICs = append(l.NICs, d)
		}
	}

	return &l.Inspection
}

// answer is unknown where what was not seen may be hidden.
func answer(seen, hidden bool) Answer {
	switch {
	case seen:
		return Yes
	case hidden:
		return Unknown
	}
	return No
}

// kernelVersion returns a kernel's version, "" if it does not tell.
func kernelVersion(arch Arch, kernel io.Reader) (string, error) {
	in := bufio.NewReaderSize(kernel, 1<<16)
	head, err := in.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}

	switch {
	case arch == X86_64 && len(head) >= 0x210 && string(head[0x202:0x206]) == "HdrS":
		return bzImageVersion(in, int(binary.LittleEndian.Uint16(head[0x20e:])))
	// An EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S).
	case len(head) >= 0x1c && string(head[4:8]) == "zimg":
		if _, err := in.Discard(int(binary.LittleEndian.Uint32(head[8:]))); err != nil {
			return "", nil // no kernel; it will not boot, and not for us to say
		}
	}

	out, err := initrd.Decompress(in)
	if err != nil {
		return "", nil
	}
	defer out.Close()

	return findVersion(io.LimitReader(out, maxKernel))
}

var aVersion = regexp.MustCompile(`^[0-9]+\.[0-9][^\s(]*`)

// bzImageVersion reads the version from where the setup header tells (Linux,
// Documentation/arch/x86/boot.rst, kernel_version).
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

// findVersion looks for the banner of a kernel: "Linux version 6.12.30 (…".
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
		if err != nil { // damage will show when it boots; the end is the end
			return "", nil
		}

		const overlap = 256
		buf = buf[:copy(buf, buf[len(buf)-overlap:])]
	}
}
