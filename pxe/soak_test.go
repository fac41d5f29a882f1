package pxe

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/internal/store"
	"provision/internal/tftp"
)

// target is a server in one mode, with a host in each state that a machine
// could be booted in, or must not be.
type target struct {
	*Server
	name  string
	clock time.Time
}

// Hosts of a target, by the last byte of their MAC.
const (
	roleReady     = 1 + iota // x86-64
	roleARM                  // ready, arm64
	roleInstalled            //
	roleExpired              // its permit ran out
	roleCancelled            // its permit is spent
	roles
)

func roleMAC(role int) string { return fmt.Sprintf("52:54:00:12:34:%02x", role) }

func targets(t testing.TB) (all []*target) {
	for _, mode := range []Mode{Proxy, Full, Off} {
		for _, hold := range []bool{false, true} {
			all = append(all, newTarget(t, mode, hold))
		}
	}
	return all
}

func newTarget(t testing.TB, mode Mode, hold bool) *target {
	t.Helper()
	tg := &target{name: string(mode), clock: noon}
	if hold {
		tg.name += ", hold"
	}
	s := serverOn(t, mode, new(store.Memory), func() time.Time { return tg.clock })
	if hold {
		s.Unknown = Hold
	}
	tg.Server, s.Log = s, slog.New(slog.DiscardHandler)
	s.withARMImage(t)
	for role := 1; role < roles; role++ {
		h := hosts.Host{Name: fmt.Sprintf("host%d", role), MACs: []string{roleMAC(role)}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab"}}
		permit := 1000 * time.Hour
		switch role {
		case roleARM:
			h.Arch, h.Image = "aarch64", "arm"
		case roleExpired:
			permit = time.Nanosecond
		}
		_, err := s.Hosts.Enroll(h, permit, nil)
		switch role {
		case roleInstalled:
			s.reach(t, h.Name, hosts.StateInstalled)
		case roleCancelled:
			_, err = s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.EventCancelled})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tg.clock = noon.Add(time.Second) // by now the short permit is over
	return tg
}

func (s *Server) withARMImage(t testing.TB) {
	t.Helper()
	s.addImage(t, "arm", "aarch64", map[int]string{0x38: "ARM\x64"}, 9000)
}

// recorded are the DHCP packets that real firmware and relays sent.
func recorded(t testing.TB) (all [][]byte) {
	t.Helper()
	files, err := filepath.Glob("../internal/lab/netboot/packets/*.hex")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d recorded packets, %v", len(files), err)
	}
	own, _ := filepath.Glob("testdata/*.hex")
	for _, file := range append(files, own...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := hex.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, raw)
		relayed := bytes.Clone(raw)
		copy(relayed[24:], []byte{10, 77, 0, 9}) // giaddr
		if end := bytes.LastIndexByte(relayed, 0xff); end > 240 {
			relayed = slices.Insert(relayed, end, append([]byte{82, 6, 1, 4}, "port"...)...)
		}
		all = append(all, relayed)
	}
	return all
}

// dhcpPacket has one packet answered, as if it had come to a port, and checks
// the answer. It returns what was done, in words; "" if that was no packet.
func (tg *target) dhcpPacket(t testing.TB, data []byte, port uint16) string {
	m, err := dhcpv4.FromBytes(data)
	if err != nil {
		return "not DHCP"
	}
	respond, from := (*exchange).answerDHCP, netip.MustParseAddrPort("0.0.0.0:68")
	if port == 4011 {
		respond, from = (*exchange).answerBINL, netip.MustParseAddrPort("10.77.0.104:4011")
	}
	r, to := tg.handle(tg.links[0], from, port, m.ToBytes(), m, respond)
	if r == nil {
		return "silence"
	}
	if !to.IsValid() || to.Port() == 0 {
		t.Errorf("%s: an answer to %s:\n%s", tg.name, to, hex.Dump(data))
	}
	if wrong := tg.wrong(m, r); wrong != "" {
		t.Errorf("%s, port %d: %s\n%s\n%s\n%s", tg.name, port, wrong, m.Summary(), r.Summary(), hex.Dump(data))
	}
	c, _ := identify(m)
	what := "without a file"
	switch {
	case r.BootFileNameOption() != "":
		what = "with a file"
	case r.Options.Has(dhcpv4.OptionVendorSpecificInformation):
		what = "local disk"
	}
	return fmt.Sprintf("%s to %s %s", r.MessageType(), []string{"a system", "PXE", "iPXE", "HTTP boot", "U-Boot", "a Pi's ROM"}[c.Kind], what)
}

// wrong says what must not be in an answer.
func (tg *target) wrong(m, r *dhcpv4.DHCPv4) string {
	file := r.BootFileNameOption()
	c, err := identify(m)
	if err != nil {
		return "who cannot be a client is answered"
	}
	h, err := tg.Hosts.ByMAC(c.MAC)
	known := err == nil
	var pool *pool
	if tg.Mode == Full {
		pool = tg.subnets[0].pool
	}
	again, parseErr := dhcpv4.FromBytes(r.ToBytes())
	if parseErr != nil || again.BootFileNameOption() != file {
		return fmt.Sprintf("the answer cannot be read: %v", parseErr)
	}
	if file == tg.url(tg.links[0].self.String(), localPath) {
		if !known || h.Permit.Spent.IsZero() || c.Kind != httpBoot || c.processor() == "" {
			return "it is sent to its disk"
		}
		file = "" // nothing is served there
	}
	switch {
	case r.TransactionID != m.TransactionID || !bytes.Equal(r.ClientHWAddr, m.ClientHWAddr):
		return "the answer is somebody else's"
	case r.BootFileNameOption() != "" && r.BootFileNameOption() != r.BootFileName && len(r.BootFileNameOption()) < 128:
		return "two file names"
	case !known && tg.Unknown != Hold:
		return "a stranger is answered"
	case !known && file != "" && !strings.Contains(file, "hold/"):
		return "a stranger is booted"
	case known && file != "" && !strings.Contains(file, bootPath+h.Boot.Token+"/"):
		return "the file is not of the host's boot"
	case known && file != "" && h.Name != fmt.Sprintf("host%d", roleReady) && h.Name != fmt.Sprintf("host%d", roleARM):
		return h.Name + " is booted"
	case file != "" && (c.Kind == system || c.Kind == piROM || c.processor() == ""):
		return "it cannot start what it is given"
	case known && file != "" && c.processor() != h.Arch:
		return "the wrong architecture"
	case strings.Contains(file, "arm64") != (file != "" && c.Kind != ipxe && c.Kind != uboot && c.processor() == "aarch64"):
		return "a program for another architecture"
	case tg.Mode == Proxy && !r.YourIPAddr.IsUnspecified():
		return "a proxy gives an address"
	case tg.Mode == Full && r.MessageType() != dhcpv4.MessageTypeNak && !r.YourIPAddr.IsUnspecified() && !pool.rng.contains(addrOf(r.YourIPAddr)):
		return "an address outside the range"
	case tg.Mode == Full && !r.YourIPAddr.IsUnspecified() && pool.mine[c.MAC] != addrOf(r.YourIPAddr):
		return "an address of somebody else"
	}
	return ""
}

// barrage makes packets: those that were recorded, as some machine's, and
// damaged in ways that parsers trip over.
type barrage struct {
	*rand.Rand
	dhcp, tftp [][]byte
}

func (b *barrage) byte() byte { return byte(b.Uint32()) }

func (b *barrage) nextDHCP() []byte {
	p := bytes.Clone(b.dhcp[b.IntN(len(b.dhcp))])
	switch b.IntN(10) {
	case 0: // as recorded, with the MAC of a real Pi where it was one
	case 1: // a stranger
		copy(p[28:34], []byte{0x52, 0x54, b.byte(), b.byte(), b.byte(), b.byte()})
	default:
		copy(p[28:34], []byte{0x52, 0x54, 0, 0x12, 0x34, byte(1 + b.IntN(roles-1))})
	}
	switch b.IntN(5) {
	case 0: // it asks for an address
		p[12], p[13], p[15] = 10, 77, b.byte()
	case 1:
		p = b.splice(p, []byte{50, 4, 10, 77, 0, b.byte()})
		p = b.splice(p, []byte{54, 4, 10, 77, 0, 1})
	}
	for range b.IntN(4) {
		p = b.damage(p, b.dhcp)
	}
	return p
}

// splice puts an option in front of the others, from where it counts too.
func (b *barrage) splice(p, option []byte) []byte {
	if len(p) < 240 {
		return p
	}
	return slices.Insert(p, 240, option...)
}

func (b *barrage) damage(p []byte, all [][]byte) []byte {
	if len(p) == 0 {
		return p
	}
	at := b.IntN(len(p))
	switch b.IntN(9) {
	case 0, 1: // a bit, most often in the options
		p[max(at, min(b.IntN(len(p)), 240))%len(p)] ^= 1 << b.IntN(8)
	case 2: // a byte that means something
		p[at] = []byte{0, 1, 2, 3, 6, 7, 0x7f, 0x80, 0xfe, 0xff}[b.IntN(10)]
	case 3: // cut short
		return p[:at]
	case 4: // another packet's end
		other := all[b.IntN(len(all))]
		return append(p[:at:at], other[min(at, len(other)):]...)
	case 5: // an option that lies about its length, or is long
		code := []byte{12, 43, 50, 52, 53, 54, 55, 57, 60, 61, 66, 67, 77, 82, 93, 94, 97, 175, 209, 255}[b.IntN(20)]
		data := make([]byte, b.IntN(40))
		for i := range data {
			data[i] = b.byte()
		}
		return b.splice(p, append([]byte{code, byte(max(0, len(data)+b.IntN(5)-2))}, data...))
	case 6: // another message type, or architecture
		return b.splice(p, [][]byte{{53, 1, byte(b.IntN(20))}, {93, 2, 0, byte(b.IntN(45))}, {77, 4, 'i', 'P', 'X', 'E'}, {97, 5, 0, 'R', 'P', 'i', '4'}}[b.IntN(4)])
	case 7: // noise
		for i := at; i < min(len(p), at+8); i++ {
			p[i] = b.byte()
		}
	case 8: // a piece twice
		return slices.Insert(p, at, p[at:min(len(p), at+b.IntN(20))]...)
	}
	return p
}

// nextTFTP is a request for a file of a host's boot, or damage done to one.
func (b *barrage) nextTFTP(tg *target) []byte {
	p := bytes.Clone(b.tftp[b.IntN(len(b.tftp))])
	if h, err := tg.Hosts.Get(fmt.Sprintf("host%d", 1+b.IntN(roles-1))); err == nil {
		p = bytes.Replace(p, []byte("foo"), []byte(bootPath+h.Boot.Token), 1)
	}
	for range b.IntN(4) {
		p = b.damage(p, b.tftp)
	}
	return p
}

// tftpPacket has one request looked up, and checks what is served.
func (tg *target) tftpPacket(t testing.TB, data []byte) string {
	r, ok := tftp.ParseRequest(data)
	if !ok {
		return "not TFTP"
	}
	f, err := tg.open(tg.links[0], r.Name, addrPort("10.77.0.104:1024"))
	switch {
	case errors.Is(err, tftp.ErrNotServed):
		return "TFTP: silence"
	case err != nil:
		return "TFTP: refused"
	}
	f.Close(false)
	if wrong := tg.wrongFile(r.Name); wrong != "" {
		t.Errorf("%s: TFTP %q: %s", tg.name, r.Name, wrong)
	}
	return "TFTP: a file"
}

// wrongFile says why a file that is served must not be.
func (tg *target) wrongFile(name string) string {
	rest, ok := strings.CutPrefix(name, bootPath)
	token, file, _ := strings.Cut(rest, "/")
	if !ok {
		return "it is of no boot"
	}
	if token == "hold" {
		if tg.Unknown != Hold || tg.programs[file] == nil {
			return "not on hold"
		}
		return ""
	}
	h, err := tg.Hosts.ByToken(token)
	switch {
	case err != nil || h.Boot.Token != token:
		return "the token is nobody's"
	case h.Name != fmt.Sprintf("host%d", roleReady) && h.Name != fmt.Sprintf("host%d", roleARM):
		return "it is of " + h.Name
	case tg.programs[file] == nil && file != "kernel" && file != "initrd" && file != pxelinux(h.Boot.MAC):
		return "there is no such file"
	}
	return ""
}

// memory is how many bytes the process has in use.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestSoak feeds damaged packets to servers in all modes: 100,000 of them, or
// PROVISION_SOAK (`make soak`: ten million). PROVISION_SEED repeats a run.
func TestSoak(t *testing.T) {
	packets, seed := number64(t, "PROVISION_SOAK", 100_000), number64(t, "PROVISION_SEED", 1)
	t.Logf("PROVISION_SOAK=%d PROVISION_SEED=%d", packets, seed)
	b := &barrage{Rand: rand.New(rand.NewPCG(uint64(seed), 0)), dhcp: recorded(t), tftp: capturedRequests(t)}
	b.tftp = append(b.tftp, []byte("\x00\x01foo/ipxe.efi\x00octet\x00tsize\x000\x00"), []byte("\x00\x01boot/hold/ipxe.efi\x00octet\x00"))
	all := targets(t)
	for _, tg := range all { // the machines, before anybody imitates them
		for _, p := range b.dhcp {
			copy(p[28:34], []byte{0x52, 0x54, 0, 0x12, 0x34, roleReady})
			tg.dhcpPacket(t, p, 67)
		}
	}
	b.dhcp = recorded(t)
	did := make(map[string]int)
	goroutines, before := runtime.NumGoroutine(), uint64(0)
	start := time.Now()
	for i := range packets {
		if i == packets/2 { // all that is bounded has come to its bounds
			before = memory()
		}
		tg := all[b.IntN(len(all))]
		tg.clock = tg.clock.Add(time.Duration(b.IntN(4000)) * time.Microsecond)
		switch what := b.IntN(10); {
		case what == 0:
			did[tg.tftpPacket(t, b.nextTFTP(tg))]++
		case tg.Mode == Off: // it does not listen for DHCP
			did[tg.tftpPacket(t, b.nextTFTP(tg))]++
		case what < 4:
			did["4011: "+tg.dhcpPacket(t, b.nextDHCP(), 4011)]++
		default:
			did[tg.name+", 67: "+tg.dhcpPacket(t, b.nextDHCP(), 67)]++
		}
		if t.Failed() {
			t.Fatalf("packet %d of seed %d", i, seed)
		}
	}
	after := memory()
	for _, what := range slices.Sorted(maps.Keys(did)) {
		t.Logf("%9d %s", did[what], what)
	}
	t.Logf("%d packets in %.0f s, memory %.1f MB half-way and %.1f MB at the end", packets, time.Since(start).Seconds(), float64(before)/1e6, float64(after)/1e6)
	if after > before+32<<20 {
		t.Errorf("%d bytes in use, and half-way %d", after, before)
	}
	settled(t, goroutines)
	for _, tg := range all {
		tg.bounded(t)
	}
}

// bounded checks all that strangers could make grow.
func (tg *target) bounded(t *testing.T) {
	traced := 0
	for _, tr := range tg.Traces.List() {
		whole, err := tg.Traces.Get(tr.MAC)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range whole.Packets {
			traced += len(p.Data)
		}
	}
	for _, n := range []struct {
		what      string
		have, may int
	}{
		{"bytes in traces", traced, hosts.MaxTraceBytes},
		{"traces", len(tg.Traces.List()), 4 * hosts.MaxDiscovered},
		{"discovered machines", len(tg.Hosts.Discovered()), hosts.MaxDiscovered},
		{"ladders", len(tg.ladders.byMAC), 10*hosts.MaxDiscovered + 1},
	} {
		if n.have > n.may {
			t.Errorf("%s: %d %s, %d at most", tg.name, n.have, n.what, n.may)
		}
	}
	for _, sub := range tg.subnets {
		if size := int(sub.rng.size()); len(sub.by) > size || len(sub.mine) > size || len(sub.saved) > size {
			t.Errorf("%s: %d leases, %d of machines, %d saved, of %d addresses", tg.name, len(sub.by), len(sub.mine), len(sub.saved), size)
		}
	}
}

func number64(t *testing.T, env string, otherwise int) int {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}
