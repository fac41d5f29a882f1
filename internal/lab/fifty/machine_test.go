package fifty

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/lab"
	"provision/internal/lab/netboot"
)

// machine is a simulated one: its firmware is internal/lab/netboot's; what it runs then is an SSH server, whose commands
// are run by a real shell in namespaces of its own, with a network card, /mnt, /run and /tmp of its own. The programs that make disks
// are pretended, and nixos-install is.
type machine struct {
	*world
	name   string
	port   *lab.Client
	dir    string // its programs
	holder *exec.Cmd
	addr   string
	took   time.Duration // from before it was enrolled until it counted as installed
}

// programs in the place of those that make disks. What is on the disk is in lsblk.json.
var programs = map[string]string{
	"lsblk":         "cat lsblk.json",
	"findmnt":       "cat findmnt.json",
	"blkid":         "exit 0",
	"wipefs":        "exit 0",
	"dd":            "exit 0",
	"udevadm":       "exit 0",
	"mkfs.ext4":     "cat made.json >lsblk.json",
	"mount":         "cat mounted.json >lsblk.json; cat there.json >findmnt.json",
	"umount":        "cat made.json >lsblk.json; cat nothing.json >findmnt.json",
	"nixos-install": "exit 0",
	"sync":          "exit 0",
	"reboot":        "touch rebooted",
}

func (m *machine) disks(number int) {
	state := func(s string) string {
		return fmt.Sprintf(`{"blockdevices":[{"name":"vdz","path":"/dev/vdz","type":"disk","size":8589934592,"serial":"Z%d"%s}]}`, number, s)
	}
	for name, text := range map[string]string{
		"lsblk.json":   state(""),
		"made.json":    state(`,"fstype":"ext4"`),
		"mounted.json": state(`,"fstype":"ext4","mountpoints":["/mnt"]`),
		"nothing.json": `{"filesystems":[]}`,
		"findmnt.json": `{"filesystems":[]}`,
		"there.json":   `{"filesystems":[{"target":"/mnt","source":"/dev/vdz","fstype":"ext4","options":"rw","fsroot":"/"}]}`,
	} {
		m.must(os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o644))
	}
	for name, script := range programs {
		m.must(os.WriteFile(filepath.Join(m.dir, name), []byte("#!/bin/sh\ncd \""+m.dir+"\"\n"+script+"\n"), 0o755))
	}
}

// plug puts machine number i on the LAN, switched off.
func (w *world) plug(i int) *machine {
	w.Helper()
	mac := net.HardwareAddr{0x52, 0x54, 2, 0, 0, byte(i)}
	port, err := w.lan.Client(w.ctx, fmt.Sprintf("m%02d", i), mac.String(), netip.Prefix{})
	w.must(err)
	w.Cleanup(func() { port.Close() })
	m := &machine{world: w, name: fmt.Sprintf("m%02d", i), port: port, dir: filepath.Join(w.dir, fmt.Sprintf("m%02d", i))}
	w.must(os.Mkdir(m.dir, 0o755))
	m.disks(i)
	return m
}

var key = regexp.MustCompile(`(?s)-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END OPENSSH PRIVATE KEY-----\n`)

// boot is the firmware's part: as far as the initrd, in which the boot's SSH host key is.
func (m *machine) boot(number int) (ssh.Signer, error) {
	wire, err := netboot.Open(m.port, m.port.Interface)
	if err != nil {
		return nil, err
	}
	mac, _ := net.ParseMAC(m.port.MAC)
	uuid := []byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 0, byte(number)}
	r, err := netboot.Client{Kind: netboot.EDK2X64, MAC: mac, UUID: uuid, Limit: -1}.Boot(m.ctx, wire)
	if err = errors.Join(err, wire.Close()); err != nil {
		return nil, err
	}
	url := regexp.MustCompile(`http://\S+/initrd`).FindString(r.Script)
	if url == "" {
		return nil, fmt.Errorf("no initrd: %s", r)
	}
	m.addr = r.Address.String()
	if _, err := m.port.Run(m.ctx, "ip", "address", "add", m.addr+"/20", "dev", m.port.Interface); err != nil {
		return nil, err
	}
	initrd := filepath.Join(m.dir, "initrd")
	if _, err := m.port.Run(m.ctx, "curl", "-sSf", "-o", initrd, url); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(initrd)
	if err != nil {
		return nil, err
	}
	os.Remove(initrd)
	return ssh.ParsePrivateKey(key.Find(data))
}

// hold makes the machine's mount namespace.
func (m *machine) hold() error {
	const script = `set -e
for d in /mnt /run; do /bin/mount -t tmpfs tmpfs $d; done
mkdir /run/programs
/bin/mount --bind "$0" /run/programs
/bin/mount -t tmpfs tmpfs /tmp
mkdir -p "$0"
/bin/mount --move /run/programs "$0"
/bin/mount -t sysfs sysfs /sys
echo ready
exec sleep infinity`
	m.holder = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, m.dir)
	out, err := m.holder.StdoutPipe()
	if err != nil {
		return err
	}
	ended, err := m.port.Start(m.holder)
	if err != nil {
		return err
	}
	m.Cleanup(func() {
		m.holder.Process.Kill()
		<-ended
	})
	_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	return err
}

// serve is an SSH server until the machine is told to reboot, or for good.
func (m *machine) serve(host ssh.Signer) (rebooted chan struct{}, err error) {
	var l net.Listener
	if err := m.port.Do(func() (err error) {
		l, err = net.Listen("tcp", m.addr+":22")
		return err
	}); err != nil {
		return nil, err
	}
	login, _, _, _, err := ssh.ParseAuthorizedKey([]byte(m.login))
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(k.Marshal(), login.Marshal()) {
			return nil, errors.New("not the server")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	rebooted = make(chan struct{})
	var mu sync.Mutex
	var conns []net.Conn
	end := sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		close(rebooted)
	})
	m.Cleanup(end)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			go m.talk(c, config, end)
		}
	}()
	return rebooted, nil
}

func (m *machine) talk(c net.Conn, config *ssh.ServerConfig, end func()) {
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		c.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				var exe struct{ Command string }
				if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exe) != nil {
					r.Reply(false, nil)
					continue
				}
				r.Reply(true, nil)
				go ssh.DiscardRequests(reqs)
				code := m.run(ch, exe.Command)
				ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
				ch.Close()
				if _, err := os.Stat(filepath.Join(m.dir, "rebooted")); err == nil {
					end()
				}
				return
			}
		}()
	}
}

// run runs a command in the machine's namespaces.
func (m *machine) run(ch ssh.Channel, command string) uint32 {
	cmd := exec.Command("nsenter", "--mount", "--net", "--target", fmt.Sprint(m.holder.Process.Pid), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+m.dir+":"+os.Getenv("PATH"), "HOME=/run", nixConfig)
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return 255
	}
	go func() { io.Copy(stdin, ch); stdin.Close() }()
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return uint32(exit.ExitCode())
	} else if err != nil {
		return 255
	}
	return 0
}

// live has the machine enrolled and switches it on, and is what it becomes: installer, then host.
func (m *machine) live(number int) error {
	begun := time.Now()
	if out, err := m.try("enroll", m.port.MAC, m.name); err != nil {
		return fmt.Errorf("%s: %w: %s", m.name, err, out)
	}
	installer, err := m.boot(number)
	if err == nil {
		err = m.hold()
	}
	if err != nil {
		return fmt.Errorf("%s: boot: %w", m.name, err)
	}
	rebooted, err := m.serve(installer)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	select {
	case <-rebooted:
	case <-m.ctx.Done():
		return fmt.Errorf("%s was not told to restart", m.name)
	}
	if err := os.Remove(filepath.Join(m.dir, "rebooted")); err != nil {
		return fmt.Errorf("%s ended without a restart: %w", m.name, err)
	}
	root := fmt.Sprintf("/proc/%d/root", m.holder.Process.Pid)
	pem, err := os.ReadFile(root + "/mnt/etc/ssh/ssh_host_ed25519_key")
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	host, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	system, err := m.system(m.name)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if _, err := os.Stat(root + "/mnt" + system + "/init"); err != nil { // it was copied
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if err := os.Symlink(system, root+"/run/current-system"); err != nil {
		return err
	}
	if _, err := m.serve(host); err != nil {
		return err
	}
	if out, err := m.try("wait", m.name); err != nil {
		return fmt.Errorf("%s: %w: %s", m.name, err, out)
	}
	m.took = time.Since(begun)
	return nil
}
