// Command demo shows what provision does: a server on a virtual LAN, a blank
// virtual machine that is switched on, and some minutes later that machine
// running a host of a flake from its own encrypted disk. `make demo` runs it.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/lab"
)

const (
	host       = "bravo"
	mac        = "52:54:00:12:34:56"
	passphrase = "correct horse battery staple"
)

func main() { os.Exit(lab.InNamespace(run)) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	d := &demo{color: os.Getenv("NO_COLOR") == "" && isTerminal(os.Stdout)}
	if err := d.run(ctx); err != nil {
		d.say("the demo failed: %v", err)
		return 1
	}
	return 0
}

type demo struct {
	color bool
	dir   string
	bin   string
	env   []string
	out   sync.Mutex
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run is the story.
func (d *demo) run(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "provision-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	if d.bin, err = filepath.Abs("bin/provision"); err != nil {
		return err
	}
	d.env = append(lab.NixEnv(), "PROVISION_SOCKET="+d.path("sock"))

	d.say("preparing an installer image and a flake (a few minutes the first time)")
	release, err := lab.ReleaseDir(ctx, lab.CacheDir(), lab.X86_64, d.prefixed("setup", "90"))
	if err != nil {
		return err
	}
	lan, err := lab.NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
	if err != nil {
		return err
	}
	defer lan.Close()
	router, err := lan.Router(ctx, d.dir, netip.MustParsePrefix("10.77.0.2/24"), netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199"))
	if err != nil {
		return err
	}
	defer router.Close()
	d.say("a virtual LAN: a home router that leases addresses, and this server on br0 beside it")

	flake := d.path("fleet")
	if err := os.Mkdir(flake, 0o755); err != nil {
		return err
	}
	if err := lab.EmptyFlake(flake); err != nil {
		return err
	}
	stop, err := d.serve(ctx, flake)
	if err != nil {
		return err
	}
	defer stop()
	return d.install(ctx, lan, flake, release)
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// serve starts the server and waits until it answers.
func (d *demo) serve(ctx context.Context, flake string) (stop func(), err error) {
	d.command("serve", "--flake", "~/fleet", "--interface", "br0", "&")
	cmd := exec.Command(d.bin, "serve", "--flake", flake, "--interface", "br0", "--state-dir", d.path("state"))
	cmd.Env, cmd.Stderr = d.env, d.prefixed("server", "90")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	for exec.CommandContext(ctx, "test", "-S", d.path("sock")).Run() != nil {
		if ctx.Err() != nil || cmd.ProcessState != nil {
			stop()
			return nil, errors.New("the server did not start")
		}
		time.Sleep(50 * time.Millisecond)
	}
	return stop, nil
}

func (d *demo) install(ctx context.Context, lan *lab.LAN, flake, release string) error {
	login, err := lab.NewKey("owner")
	if err != nil {
		return err
	}
	server, err := os.ReadFile(d.path("state/ssh.pub"))
	if err != nil {
		return err
	}
	fleet := lab.Fleet{AuthorizedKeys: string(server) + string(login.Public)}
	if _, err := fleet.Write(ctx, lab.CacheDir(), flake, d.prefixed("setup", "90")); err != nil {
		return err
	}
	key := d.path("disk.key")
	if err := os.WriteFile(key, []byte(passphrase), 0o600); err != nil {
		return err
	}
	disk, err := lab.NewDisk(d.path("disk.img"), 4<<30, "DEMO0001")
	if err != nil {
		return err
	}
	machine := &lab.Machine{Name: host, Dir: d.dir, LAN: lan, MAC: mac, Disks: []lab.Disk{disk}}
	defer machine.PowerOff()

	for _, step := range [][]string{
		{"images", "add", "nixos", "--arch", "x86_64", "--from", release},
		{"enroll", mac, host, "--disk-encryption-key", "/tmp/disk.key=" + key},
		{"plan", host},
	} {
		if err := d.provision(ctx, step...); err != nil {
			return err
		}
	}
	d.say("switching the blank machine on; its firmware tries the network first")
	start := time.Now()
	if err := machine.Start(ctx); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { defer close(done); d.console(ctx, machine) }()
	watch := make(chan error, 1)
	go func() { watch <- d.provision(ctx, "watch", host) }()
	if err := d.unlock(ctx, machine); err != nil {
		return err
	}
	if err := <-watch; err != nil {
		return err
	}
	took := time.Since(start).Round(time.Second)
	if err := d.provision(ctx, "status", host); err != nil {
		return err
	}
	if err := d.look(ctx, login); err != nil {
		return err
	}
	d.say("from power-on to a host on its own LUKS disk in %s, firmware and all, without KVM", took)
	err = machine.PowerOff()
	<-done
	return err
}

// unlock types the passphrase when the host asks for it.
func (d *demo) unlock(ctx context.Context, m *lab.Machine) error {
	for {
		said, err := m.Console().Expect(ctx, "Passphrase for", host+" login:")
		if err != nil || said != "Passphrase for" {
			return err
		}
		d.say("typing the disk's passphrase on the machine's console")
		if err := m.Console().Type(passphrase + "\n"); err != nil {
			return err
		}
	}
}

// look logs in as the owner would, with the host key that status shows.
func (d *demo) look(ctx context.Context, login lab.Key) error {
	out, err := d.capture(ctx, "status", host)
	if err != nil {
		return err
	}
	field := func(name string) string {
		m := regexp.MustCompile(`(?m)^  ` + name + ` +(.+)$`).FindStringSubmatch(out)
		if m == nil {
			return ""
		}
		return m[1]
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(field("host key")))
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(field("address"))
	if err != nil {
		return err
	}
	sh, err := lab.Dial(ctx, addr, key, login.Signer)
	if err != nil {
		return err
	}
	defer sh.Close()
	const command = "cat /proc/sys/kernel/hostname; readlink -f /run/current-system; grep -E ' (/|/boot) ' /proc/mounts"
	d.shell("ssh root@%s '%s'", addr, command)
	text, err := sh.Run(ctx, command)
	fmt.Fprintln(d.prefixed(host, "32"), text)
	return err
}

// provision shows a command and runs it.
func (d *demo) provision(ctx context.Context, args ...string) error {
	shown := make([]string, len(args))
	for i, a := range args {
		shown[i] = strings.NewReplacer(d.dir+"/", "", lab.CacheDir()+"/", "").Replace(a)
	}
	d.command(shown...)
	cmd := exec.CommandContext(ctx, d.bin, args...)
	w := d.prefixed("provision", "36")
	cmd.Env, cmd.Stdout, cmd.Stderr = d.env, w, w
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("provision %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (d *demo) capture(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.bin, args...)
	cmd.Env = d.env
	out, err := cmd.Output()
	return string(out), err
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;?=]*[A-Za-z]|\x1b\[=3h|[\x00-\x08\x0b-\x1f]`)

// console shows what the machine prints, until it is off.
func (d *demo) console(ctx context.Context, m *lab.Machine) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tail", "-n", "+1", "-f", m.LogPath())
	out, err := cmd.StdoutPipe()
	if err != nil || cmd.Start() != nil {
		return
	}
	go func() { m.Wait(ctx); cancel() }()
	w := d.prefixed("console", "33")
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text := strings.TrimSpace(escapes.ReplaceAllString(lines.Text(), "")); text != "" {
			fmt.Fprintln(w, text)
		}
	}
	cmd.Wait()
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintln(d.prefixed("", "1"), fmt.Sprintf("── "+format, args...))
}

func (d *demo) command(args ...string) { d.shell("provision %s", strings.Join(args, " ")) }

func (d *demo) shell(format string, args ...any) {
	fmt.Fprintln(d.prefixed("", "1"), fmt.Sprintf("$ "+format, args...))
}

// prefixed writes whole lines with a name in front.
func (d *demo) prefixed(name, color string) io.Writer {
	return &prefixed{d: d, name: name, color: color}
}

type prefixed struct {
	d           *demo
	name, color string
	rest        []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		p.rest = rest
		p.d.out.Lock()
		if p.d.color {
			fmt.Printf("\x1b[%sm%9s │ %s\x1b[0m\n", p.color, p.name, line)
		} else {
			fmt.Printf("%9s │ %s\n", p.name, line)
		}
		p.d.out.Unlock()
	}
}
