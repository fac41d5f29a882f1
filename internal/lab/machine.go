package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Machine is a PC or an arm64 machine, emulated by QEMU. The exported fields describe it; they are read when it is
// switched on. Its firmware is set to try the network first and then the disks in their order, at each boot; what runs
// on the machine can change that order, as on a real one.
type Machine struct {
	Name     string
	Dir      string // for the firmware's variables and the console's recording, which outlast power cycles
	Firmware Firmware
	LAN      *LAN // nil: no network card
	MAC      string
	NIC      string // QEMU's name of the model: "virtio-net-pci" (the default, but for U-Boot "e1000"), "e1000e", …
	UUID     string // the SMBIOS system UUID; none: made from the MAC
	Disks    []Disk
	MemMB    int    // 0: 1536
	CPUs     int    // 0: 2
	CPU      string // QEMU's name of the model; none: one that is quick to emulate

	// Kernel, Initrd and Cmdline, if set, are booted instead of network and disks.
	Kernel, Initrd, Cmdline string

	// DiskFirst makes UEFI firmware try the disks before the network, as on most machines that people have.
	DiskFirst bool
	// First, if set, makes UEFI firmware try the boot options first whose text begins with it: "UEFI QEMU QEMU USB" of
	// a stick, "UEFI QEMU DVD-ROM" of a CD, "UEFI PXE|UEFI HTTP" of every way over the network; then the disks, and
	// the rest of the network last.
	First string
	// TPM is a TPM 2.0 chip, which keeps its state over power cycles.
	TPM bool
	// IPv6PXE lets the firmware try netboot over IPv6 after IPv4, which takes minutes where nobody answers.
	IPv6PXE bool
	// Args are added to QEMU's command line.
	Args []string

	mu      sync.Mutex
	console *Console
	power   *power // nil: it was never on
}

// power is one time that a machine is on, from Start to its end.
type power struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

// Start switches the machine on. It stays on until it switches itself off, PowerOff, or the end of ctx. What it prints
// is appended to DIR/NAME.log.
func (m *Machine) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power != nil {
		select {
		case <-m.power.done:
		default:
			return fmt.Errorf("machine %s is on already", m.Name)
		}
	}
	args, err := m.args(ctx)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", m.Name, err)
	}
	log, err := os.OpenFile(m.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setpgid:   true, // a Ctrl-C on our terminal is not for the machine
		Pdeathsig: unix.SIGKILL,
	}
	var tpm *exec.Cmd
	if m.TPM {
		if tpm, err = m.tpm(ctx, cmd); err != nil {
			cancel()
			return errors.Join(err, log.Close())
		}
	}
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		cancel()
		return errors.Join(err, log.Close())
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return errors.Join(err, log.Close())
	}
	on := &power{cancel: cancel, done: make(chan struct{})}
	m.console, m.power = newConsole(stdin), on
	console := m.console
	started := make(chan error)
	go func() {
		defer close(on.done)
		runtime.LockOSThread() // Pdeathsig watches the thread that started QEMU
		defer runtime.UnlockOSThread()
		err := startBoth(tpm, cmd)
		started <- err
		if err != nil {
			on.err = errors.Join(err, log.Close())
			return
		}
		err = console.feed(stdout, log)
		if wait := cmd.Wait(); wait != nil && ctx.Err() == nil {
			err = errors.Join(err, fmt.Errorf("qemu: %w: %s", wait, tail(stderr.String(), 1000)))
		}
		if tpm != nil {
			_ = tpm.Wait() // it ends with QEMU, or is killed like it
		}
		on.err = errors.Join(err, log.Close())
	}()
	if err := <-started; err != nil {
		cancel()
		return fmt.Errorf("switch on %s: %w", m.Name, err)
	}
	return nil
}

// PowerOff cuts the power, whatever the machine is doing.
func (m *Machine) PowerOff() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.power == nil {
		return nil
	}
	m.power.cancel()
	<-m.power.done
	return m.power.err
}

// Wait waits until the machine is off.
func (m *Machine) Wait(ctx context.Context) error {
	m.mu.Lock()
	on := m.power
	m.mu.Unlock()
	if on == nil {
		return nil
	}
	select {
	case <-on.done:
		return on.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to switch off: %w", m.Name, ctx.Err())
	}
}

// Processors are the registers of its processors, twice within a second: they tell a machine that hangs from one that is slow.
func (m *Machine) Processors(ctx context.Context) string {
	var all strings.Builder
	for k := range 2 {
		if k > 0 {
			time.Sleep(time.Second) // what happens in it is what is to be seen
		}
		said, err := m.Monitor(ctx, "info registers -a")
		fmt.Fprintf(&all, "%s%v\n", said, err)
	}
	return all.String()
}

// Monitor gives QEMU's monitor a command, such as "set_link lan off", and returns what it says (QEMU's "QMP Reference
// Manual", human-monitor-command).
func (m *Machine) Monitor(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.socket())
	if err != nil {
		return "", fmt.Errorf("ask the monitor of %s: %w", m.Name, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	quoted, err := json.Marshal(command)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(conn, `{"execute":"qmp_capabilities"} {"execute":"human-monitor-command","arguments":{"command-line":%s}}`, quoted)
	for answers := json.NewDecoder(conn); ; {
		var answer struct{ Return any }
		if err := answers.Decode(&answer); err != nil {
			return "", fmt.Errorf("ask the monitor of %s: %w", m.Name, err)
		}
		if text, ok := answer.Return.(string); ok {
			return strings.ReplaceAll(text, "\r", ""), nil
		}
	}
}

func (m *Machine) socket() string { return filepath.Join(m.Dir, m.Name+".qmp") }

// Console returns the serial console of the machine as it was switched on last, or nil if it never was.
func (m *Machine) Console() *Console {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.console
}

// LogPath is where the console is recorded, over all power cycles.
func (m *Machine) LogPath() string { return filepath.Join(m.Dir, m.Name+".log") }

// args is QEMU's command line. It makes the firmware's variables and the tap if they are not there yet.
func (m *Machine) args(ctx context.Context) ([]string, error) {
	board, err := m.Firmware.board()
	if err != nil {
		return nil, err
	}
	args, err := m.hardware(board)
	if err != nil {
		return nil, err
	}
	if m.DiskFirst {
		board.first = "none" // of the ways over the network
	}
	if m.First != "" {
		board.first = m.First
	}
	if board.vars != "" {
		vars := filepath.Join(m.Dir, m.Name+".vars.fd")
		if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
			if err := board.firstBoot(ctx, args, len(m.Disks), vars); err != nil {
				return nil, fmt.Errorf("set up its firmware: %w", err)
			}
		}
		args = append(args, "-drive", "if=pflash,unit=1,format=raw,file="+vars)
	}
	args = append(args, "-name", m.Name)
	if m.Kernel != "" {
		args = append(args, "-kernel", m.Kernel, "-initrd", m.Initrd, "-append", m.Cmdline)
	}
	if m.LAN != nil {
		tap := "tap-" + m.Name
		if len(tap) > 15 {
			return nil, fmt.Errorf("its name is longer than the 11 characters that a tap's name leaves")
		}
		if err := m.LAN.Tap(ctx, tap); err != nil {
			return nil, err
		}
		args = append(args, "-netdev", "tap,id=lan,script=no,downscript=no,ifname="+tap)
	}
	for i, disk := range m.Disks {
		// cache=unsafe: the host's memory outlives a power cut of the guest.
		args = append(args, "-drive",
			fmt.Sprintf("if=none,id=disk%d,file=%s,format=raw,cache=unsafe,discard=unmap", i, disk.Path))
	}
	args = append(args, "-qmp", "unix:"+m.socket()+",server=on,wait=off")
	return append(args, m.Args...), nil
}

// hardware is the part of QEMU's command line that says what the machine is made of, and not what that is connected
// to: the network card needs a netdev called lan, the disks need drives called disk0, disk1, ….
func (m *Machine) hardware(b board) ([]string, error) {
	args := append(slices.Clone(b.qemu), "-nodefaults", "-display", "none", "-monitor", "none",
		// Emulated always: where /dev/kvm exists, it may hang all the same.
		"-accel", "tcg,thread=multi", "-cpu", cmp.Or(m.CPU, b.cpu), "-smp", fmt.Sprint(cmp.Or(m.CPUs, 2)),
		"-m", fmt.Sprint(cmp.Or(m.MemMB, 1536)), "-serial", "stdio", "-device", "virtio-rng-pci")
	if !m.IPv6PXE {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if m.LAN != nil {
		uuid := "4c414200-0000-4000-8000-" + strings.ToLower(strings.ReplaceAll(m.MAC, ":", ""))
		args = append(args, "-uuid", cmp.Or(m.UUID, uuid),
			"-device", cmp.Or(m.NIC, b.nic)+",netdev=lan,mac="+m.MAC+b.nicOptions)
	}
	if slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.Bus == "usb" }) {
		args = append(args, "-device", "qemu-xhci")
	}
	for i, disk := range m.Disks {
		device, ok := map[string]string{
			"": "virtio-blk-pci", "virtio": "virtio-blk-pci", "nvme": "nvme", "sata": "ide-hd", "usb": "usb-storage", "cd": "ide-cd",
		}[disk.Bus]
		if !ok {
			return nil, fmt.Errorf("disk %s: no bus is called %q (virtio, nvme, sata, usb, cd)", disk.Path, disk.Bus)
		}
		serial := cmp.Or(disk.Serial, fmt.Sprintf("LAB%d", i))
		if disk.Bus == "usb" {
			device += ",removable=on"
		}
		args = append(args, "-device", fmt.Sprintf("%s,drive=disk%d,serial=%s", device, i, serial))
	}
	return args, nil
}
