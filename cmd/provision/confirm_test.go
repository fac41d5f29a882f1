package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/installer"
	"provision/internal/api"
	plans "provision/internal/confirm"
	"provision/internal/enroll"
	"provision/internal/store"
)

// TestNothingUnseenIsErased is a model of operators, flakes and machines: enroll, then reinstall
// or install, then retry where the install was stopped, with random flags, while the flake, what
// is known of the machine and the machine itself change between any two steps, also while the
// host's name is being typed; and set has the host mean another machine. Whatever disk an install erases was on the screen as lost when a
// name was typed for the last time.
func TestNothingUnseenIsErased(t *testing.T) {
	m := newModel(t)
	for seed := range uint64(120) {
		m.play(seed)
		if t.Failed() {
			t.Fatalf("seed %d; the last screen:\n%s", seed, m.out.String())
		}
	}
	t.Logf("%d installs erased something, %d were stopped for what was not confirmed, %d plans were shown again, %d retries were asked about, "+
		"%d hosts became another machine, %d were held by their permits", m.erased, m.stopped, m.again, m.asked, m.moved, m.held)
	if m.erased < 20 || m.stopped < 5 || m.again < 5 || m.asked < 3 || m.moved < 10 || m.held < 5 {
		t.Error("too little happened to prove anything")
	}
}

type model struct {
	t         *testing.T
	rnd       *rand.Rand
	inventory *hosts.Inventory
	installer *installer.Installer
	socket    string
	host      string
	mac       string

	mu     sync.Mutex
	layout []byte // of the flake, by now

	machine []simulated                           // its disks: /dev/sda, /dev/sdb, …
	known   []simulated                           // as the plan on the screen has them
	serial  int                                   // of the newest disk
	out     bytes.Buffer                          // the screen
	prompts int                                   // of this command
	screen  struct{ lost, named map[string]bool } // when the name was typed

	erased, stopped, again, asked, moved, held int
}

// simulated is a disk. Its number is what it is; the rest is what it says of itself.
type simulated struct {
	number  int
	serial  string
	size    int64
	windows bool
}

func newModel(t *testing.T) *model {
	dir, err := os.MkdirTemp("/dev/shm", "model") // a commit does not wait for a disk there
	if err != nil {
		dir, err = os.MkdirTemp("", "model")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	db, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	vault, err := hosts.OpenVault(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, socket: filepath.Join(dir, "sock")}
	if m.inventory, err = hosts.New(db, vault, time.Now); err != nil {
		t.Fatal(err)
	}
	catalog, err := images.Open(filepath.Join(dir, "images"))
	if err == nil {
		err = writeImage(filepath.Join(dir, "release"), "x86_64", false)
	}
	if err == nil {
		_, err = catalog.From(t.Context(), images.Request{Name: "lab", From: filepath.Join(dir, "release")}, func(images.Progress) {})
	}
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	m.installer = &installer.Installer{Hosts: m.inventory, Log: quiet, Now: time.Now}
	server := &api.Server{
		Socket: m.socket,
		Enroll: &enroll.Service{Flake: "fleet", Hosts: m.inventory, Images: catalog, Evaluate: m.evaluate},
		Hosts:  m.inventory,
		Images: catalog,
		Traces: &hosts.Traces{Now: time.Now},
		Log:    quiet,
		Look:   func(context.Context, string) error { return errors.New("it is off") },
	}
	if err := server.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *model) evaluate(context.Context, string, string, hosts.Choices) (enroll.Evaluation, error) {
	l, err := m.parsed()
	return enroll.Evaluation{System: "x86_64-linux", Layout: l}, err
}

func (m *model) parsed() (*disko.Layout, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return disko.Parse(m.layout)
}

func (m *model) likely(share float64) bool { return m.rnd.Float64() < share }

// device is the name of one of three disks, which need not be there.
func (m *model) device() string { return "/dev/sd" + string(rune('a'+m.rnd.IntN(3))) }

// edit changes the flake: which disks its layout takes, and which of them it erases.
func (m *model) edit() {
	type object = map[string]any
	disk := func(name, device, mountpoint string) object {
		label := "/dev/disk/by-partlabel/" + name
		return object{"type": "disk", "device": device, "destroy": m.likely(0.8), "content": object{
			"type": "gpt", "device": device, "efiGptPartitionFirst": true, "partitions": object{
				name: object{"name": name, "label": name, "device": label, "start": "0", "end": "-0", "size": "100%", "type": "8300", "priority": 1,
					"content": object{"type": "filesystem", "format": "ext4", "device": label, "mountpoint": mountpoint}}}}}
	}
	main := m.device()
	disks := object{"main": disk("main", main, "/")}
	if other := m.device(); other != main && m.likely(0.4) {
		disks["data"] = disk("data", other, "/data")
	}
	data, err := json.Marshal(object{"disk": disks})
	if err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layout = data
}

// made is a new disk. Some say nothing that tells them apart; these differ in size.
func (m *model) made() simulated {
	m.serial++
	d := simulated{number: m.serial, size: int64(8+m.rnd.IntN(3)) << 30, windows: m.likely(0.1)}
	switch m.rnd.IntN(4) {
	case 0:
		d.size = int64(8<<30) + int64(m.serial)<<20
	case 1:
		d.serial, d.size = "QM00001", int64(8<<30)+int64(m.serial)<<20
	default:
		d.serial = fmt.Sprintf("WDX%05dK", 70000+m.serial*7)
	}
	return d
}

// change replaces a disk of the machine, or has its disks found in another order.
func (m *model) change() {
	m.machine = slices.Clone(m.machine)
	if i := m.rnd.IntN(len(m.machine)); m.likely(0.4) {
		m.machine[i] = m.made()
		return
	}
	m.rnd.Shuffle(len(m.machine), func(i, j int) { m.machine[i], m.machine[j] = m.machine[j], m.machine[i] })
}

// set has the host mean another machine. A permit is for a machine: while one lives, it is refused; cancel ends it.
func (m *model) set(cancel bool) {
	if cancel && !m.command("cancel", m.host) {
		m.t.Errorf("cancel: %s", m.out.String())
	}
	before, err := m.inventory.Get(m.host)
	if err != nil {
		m.t.Fatal(err)
	}
	mac := fmt.Sprintf("52:54:01:00:%02x:%02x", m.serial>>8, m.serial&0xff)
	done := m.command("set", m.host, "--mac", mac)
	if lives := before.Permit.Live(time.Now()); done == lives {
		m.t.Errorf("set --mac: %v, and the host has a live permit: %v", done, lives)
	}
	if !done {
		m.held++
		return
	}
	m.moved++
	m.mac, m.machine = mac, []simulated{m.made(), m.made()}
}

func (m *model) facts() []byte {
	text := `{"mounts":[],"links":{},"blockdevices":[`
	for i, d := range m.machine {
		name := "sd" + string(rune('a'+i))
		children := ""
		if d.windows {
			children = fmt.Sprintf(`,"children":[{"name":"%s1","path":"/dev/%s1","type":"part","size":1073741824,"start":2048,"fstype":"ntfs"}]`, name, name)
		}
		if i > 0 {
			text += ","
		}
		text += fmt.Sprintf(`{"name":%q,"path":"/dev/%s","type":"disk","model":"M","serial":%q,"size":%d%s}`, name, name, d.serial, d.size, children)
	}
	return []byte(text + `]}`)
}

// tell has the server learn what the machine has.
func (m *model) tell() {
	if err := m.inventory.SetFacts(m.host, m.facts()); err != nil {
		m.t.Fatal(err)
	}
	m.known = m.machine
}

// Read types the host's name, once the screen has been read. The world does not wait meanwhile.
func (m *model) Read(p []byte) (int, error) {
	m.prompts++
	m.see()
	if m.prompts < 4 && m.likely(0.3) {
		m.edit()
	}
	return copy(p, m.host+"\n"), nil
}

var lostLine = regexp.MustCompile(`(?m)^All that is on (\S+) \((.*)\) will be lost\.$`)

// see reads from the screen what will be lost.
func (m *model) see() {
	shown := m.out.String()
	shown = shown[strings.LastIndex(shown, "Not done:")+1:]
	m.screen.lost, m.screen.named = map[string]bool{}, map[string]bool{}
	for _, line := range lostLine.FindAllStringSubmatch(shown, -1) {
		if strings.HasSuffix(line[2], "size not known") {
			m.screen.named[line[1]] = true
			continue
		}
		d := m.known[int(line[1][len(line[1])-1]-'a')]
		m.screen.lost[fmt.Sprint(d.number)] = true
	}
}

// flags are what an operator may say about the disks.
func (m *model) flags() (args []string) {
	some := m.machine[m.rnd.IntN(len(m.machine))]
	if m.likely(0.4) {
		disk := []string{m.device(), m.device(), "largest", "serial:" + some.serial}
		if some.serial == "" {
			disk = disk[:3]
		}
		args = append(args, "--disk", "main="+disk[m.rnd.IntN(len(disk))])
	}
	if m.likely(0.3) {
		args = append(args, "--disko", []string{"fresh", "format", "mount"}[m.rnd.IntN(3)])
	}
	return append(args, m.wipe(0.2)...)
}

func (m *model) wipe(share float64) []string {
	some := m.machine[m.rnd.IntN(len(m.machine))]
	if some.serial == "" || !m.likely(share) {
		return nil
	}
	return []string{"--wipe", some.serial}
}

// command runs the program.
func (m *model) command(args ...string) (ok bool) {
	m.out.Reset()
	m.prompts = 0
	var said bytes.Buffer
	code := run(m.t.Context(), append([]string{"--socket", m.socket}, args...), m, &m.out, &said)
	m.again += max(0, m.prompts-1)
	return code == exitDone
}

// install does what `provision install` does once it is logged in and knows the disks.
func (m *model) install(args []string) (ok bool) {
	m.out.Reset()
	m.prompts = 0
	m.known = m.machine
	var e enrollment
	c := &cobra.Command{}
	e.flags(c, hosts.ViaManual)
	c.SetContext(m.t.Context())
	c.SetIn(m)
	c.SetOut(&m.out)
	err := c.ParseFlags(args)
	if err == nil {
		err = e.parse(c)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	e.request.Name, e.request.MACs, e.request.Facts = m.host, []string{m.mac}, m.facts()
	q := newQuestion(c, &api.Client{Socket: m.socket}, m.host, false)
	q.seen = true
	err = q.put(api.HostsPath, e.agreed, new(api.Status))
	m.again += max(0, m.prompts-1)
	return err == nil
}

// play is one host's story.
func (m *model) play(seed uint64) {
	m.rnd = rand.New(rand.NewPCG(seed, 15))
	m.host, m.mac = fmt.Sprintf("h%d", seed), fmt.Sprintf("52:54:00:00:%02x:%02x", seed>>8, seed&0xff)
	m.machine = nil
	for range 2 + m.rnd.IntN(2) {
		m.machine = append(m.machine, m.made())
	}
	m.edit()
	if !m.command("enroll", m.mac, m.host) {
		m.t.Fatalf("seed %d: not enrolled", seed)
	}
	if m.likely(0.7) {
		m.tell()
	}
	if m.likely(0.2) {
		m.set(m.likely(0.7))
	}
	confirmed := false
	if m.likely(0.5) {
		confirmed = m.install(m.flags())
	} else {
		confirmed = m.command(append([]string{"reinstall", m.host, "--via", "manual"}, m.flags()...)...)
	}
	for range 3 {
		if !confirmed {
			return
		}
		if m.likely(0.4) {
			m.change()
		}
		if m.likely(0.2) {
			m.set(false)
		}
		if m.likely(0.3) {
			m.edit()
		}
		if m.burn() {
			return
		}
		if m.likely(0.2) {
			m.set(m.likely(0.7))
		}
		confirmed = m.command(append([]string{"retry", m.host, "--via", "manual"}, m.wipe(0.3)...)...)
		m.asked += min(1, m.prompts)
	}
}

// burn is the machine that comes to its installer, and what the installer does until the first
// disk is lost. It reports whether the install went on.
func (m *model) burn() bool {
	h, err := m.inventory.BeginBoot(m.host, hosts.Boot{Client: "model", MAC: m.mac, Expires: time.Now().Add(time.Hour)}, "")
	if err == nil {
		_, err = m.inventory.Apply(m.host, hosts.Event{Kind: hosts.EventContacted, Boot: &h.Boot, Address: "127.0.0.1"})
	}
	if err == nil {
		h, err = m.inventory.Get(m.host)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.tell()
	plan, err := m.plan(h)
	if err == nil {
		err = m.installer.Burn(h, plan)
		if err != nil && strings.Contains(err.Error(), "beyond what was confirmed") {
			m.stopped++
		}
	}
	if err != nil {
		if _, err := m.inventory.Apply(m.host, hosts.Event{Kind: hosts.EventFailed, Phase: hosts.PhaseDisks, Message: err.Error()}); err != nil {
			m.t.Fatal(err)
		}
		return false
	}
	m.carryOut(plan)
	return true
}

func (m *model) plan(h hosts.Host) (*disko.Plan, error) {
	l, err := m.parsed()
	if err != nil {
		return nil, err
	}
	facts, err := disko.ParseFacts(m.facts())
	if err != nil {
		return nil, err
	}
	return disko.NewPlan(l, facts, plans.Options(h.Choices, ""))
}

// carryOut runs the steps that destroy: what they are run on was on the screen.
func (m *model) carryOut(plan *disko.Plan) {
	some := false
	for _, s := range plan.Steps {
		if !s.Destructive() {
			continue
		}
		some = true
		i := slices.IndexFunc(plan.Disks, func(d disko.Disk) bool { return strings.HasPrefix(s.Device, d.Device) })
		if i < 0 {
			m.t.Errorf("%q is run on no disk of the plan", s.Argv)
			continue
		}
		d := m.machine[int(plan.Disks[i].Device[len("/dev/sd")]-'a')]
		if !m.screen.lost[fmt.Sprint(d.number)] && !m.screen.named[plan.Disks[i].Named] {
			m.t.Errorf("%q is run on disk %d, %+v, which was not on the screen as lost: %+v", s.Argv, d.number, d, m.screen)
		}
	}
	if some {
		m.erased++
	}
}
