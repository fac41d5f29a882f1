package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/api"
	"provision/internal/lab"
	"provision/internal/lab/netboot"
)

// machine is a simulated one, with a network card and a disk.
type machine struct {
	*world
	name string // of its host
	mac  net.HardwareAddr
	uuid []byte
	port *lab.Client
	wire *netboot.Wire
	rand *rand.Rand
	disk disk // while the machine's SSH server runs, it is that one's; see sshd.mu

	token atomic.Pointer[string] // path of its last boot, which the whole LAN can read off the wire
}

// booted is how a netboot ended.
type booted struct {
	addr string     // that it has; empty: none was leased
	key  ssh.Signer // of the boot's installer; nil: it was not to boot one
	why  string
}

var (
	bootKey   = regexp.MustCompile(`(?s)-----BEGIN OPENSSH PRIVATE KEY-----.*?-----END OPENSSH PRIVATE KEY-----\n`)
	bootToken = regexp.MustCompile(`http://[^/\s]+(/boot/[0-9a-f]+)/initrd`)
)

// netboot is the firmware's part: as far as the initrd, in which the boot's SSH host key is. scale is of the firmware's
// patience.
func (m *machine) netboot(ctx context.Context, scale float64) (b booted, err error) {
	r, err := netboot.Client{Kind: netboot.IPXE, MAC: m.mac, UUID: m.uuid, Limit: -1, Scale: scale}.Boot(ctx, m.wire)
	if err != nil {
		return b, err
	}
	b.why = r.Stopped
	if !r.Address.IsValid() {
		return b, nil
	}
	b.addr = r.Address.String()
	addr := netip.PrefixFrom(r.Address, self.Bits()).String()
	if _, err := m.port.Run(ctx, "ip", "address", "replace", addr, "dev", m.port.Interface); err != nil {
		return b, err
	}
	url := bootToken.FindStringSubmatch(r.Script)
	if url == nil || r.Stopped != "" || r.Local {
		return b, nil
	}
	m.token.Store(&url[1])
	initrd, err := fetch(m.port, r.Address, url[1]+"/initrd")
	if err != nil || initrd == nil {
		b.why = fmt.Sprintf("no initrd: %v", err)
		return b, nil
	}
	if b.key, err = ssh.ParsePrivateKey(bootKey.Find(initrd)); err != nil {
		return b, fmt.Errorf("the key in the initrd of %s: %w", m.name, err)
	}
	return b, nil
}

// fetch fetches a path from the server, from an address of a computer's. It returns nil for any answer but 200, and an
// error if there was none.
func fetch(c *lab.Client, from netip.Addr, path string) ([]byte, error) {
	var conn net.Conn
	err := c.Do(func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 10 * time.Second}
		conn, err = d.Dial("tcp4", netip.AddrPortFrom(self.Addr(), 80).String())
		return err
	})
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	resp, err := client.Get("http://" + self.Addr().String() + path)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		return nil, nil
	}
	return data, err
}

// off cuts the machine's power.
func (m *machine) off() {
	m.disk.off()
	if _, err := m.port.Run(context.Background(), "ip", "address", "flush", "dev", m.port.Interface); err != nil {
		m.Errorf("take the address of %s away: %v", m.name, err)
	}
}

// live switches the machine on, again and again, until ctx ends.
func (m *machine) live(ctx context.Context) {
	for ctx.Err() == nil {
		b, err := m.netboot(ctx, 0.1)
		if ctx.Err() == nil && err != nil {
			m.Errorf("boot %s: %v", m.name, err)
			return
		}
		m.pulses.happened(m.name)
		m.runs(ctx, b)
		m.off()
	}
}

// runs is what the machine does after its firmware: until it is told to restart, or somebody pulls its plug.
func (m *machine) runs(ctx context.Context, b booted) {
	unplugged := m.steps.after(5 + m.rand.IntN(40))
	key, mood := b.key, honest
	switch {
	case key != nil:
		mood = m.moods.next()
	case m.disk.system != "" && b.addr != "":
		var err error
		if key, err = ssh.ParsePrivateKey(m.disk.key); err != nil {
			m.Errorf("%s has a host key that is none: %v", m.name, err)
			return
		}
	default: // its screen says that there is nothing to start
		select {
		case <-m.pulses.next(m.name):
		case <-ctx.Done():
		}
		return
	}
	s, err := m.serve(b.addr, key, mood)
	if err != nil {
		m.Errorf("start the SSH server of %s: %v", m.name, err)
		return
	}
	defer s.close()
	select {
	case <-s.restart:
	case <-unplugged:
	case <-ctx.Done():
	}
}

// install boots honestly, at most so many times, until the machine's host needs it no more, and returns how it stands.
func (m *machine) install(ctx context.Context, boots int) (api.Status, error) {
	var why []string
	for i := range boots {
		if i > 0 && why[i-1] != "" { // by a server, who asks again within 5 s is not taken for somebody who restarted
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
		}
		b, err := m.netboot(ctx, 1)
		if err != nil {
			return api.Status{}, err
		}
		why = append(why, b.why)
		now, err := m.whileUp(ctx, b)
		m.off()
		if err != nil || settled(now) {
			return now, err
		}
	}
	now, err := m.status(ctx)
	return now, errors.Join(err, fmt.Errorf("%s is %s in phase %q, error %q, after honest boots that ended like this: %q",
		m.name, now.State, now.Phase, now.Error, why))
}

// whileUp is what an honest machine does in one boot.
func (m *machine) whileUp(ctx context.Context, b booted) (now api.Status, err error) {
	key := b.key
	if key == nil && m.disk.system != "" {
		if key, err = ssh.ParsePrivateKey(m.disk.key); err != nil {
			return now, err
		}
	}
	if key == nil || b.addr == "" {
		return m.status(ctx)
	}
	s, err := m.serve(b.addr, key, honest)
	if err != nil {
		return now, err
	}
	defer s.close()
	for {
		next := m.pulses.next(m.name)
		if now, err = m.status(ctx); err != nil || settled(now) {
			return now, err
		}
		select {
		case <-next:
		case <-s.restart:
			return now, nil
		case <-time.After(time.Minute):
			return now, nil
		case <-ctx.Done():
			return now, ctx.Err()
		}
	}
}

// mood is how an installer behaves.
type mood int

const (
	honest   mood = iota
	endless       // prints without end, to standard output
	babbling      // prints a lot, to standard error
	crowded       // tells of thousands of disks
	broken        // drops the connection after some commands
	failing       // one of its commands fails, with many words
	another       // says that it has another network card
	hanging       // does not answer after some commands
	wrongKey      // has not the boot's key
)

// moods are handed out to one installer after the other: each second one is honest, and the others take turns.
type moods struct {
	mu    sync.Mutex
	order []mood
	given int
}

func newMoods(random *rand.Rand) *moods {
	all := &moods{order: []mood{endless, babbling, crowded, broken, failing, another, hanging, wrongKey}}
	random.Shuffle(len(all.order), func(i, j int) { all.order[i], all.order[j] = all.order[j], all.order[i] })
	return all
}

func (all *moods) next() mood {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.given++
	if all.given%2 == 0 {
		return honest
	}
	return all.order[all.given/2%len(all.order)]
}

// unquote reads a command line as the server writes it: each word in single quotes.
func unquote(line string) (words []string) {
	for len(line) > 0 {
		var word strings.Builder
		for len(line) > 0 && line[0] != ' ' {
			switch line[0] {
			case '\'':
				text, rest, _ := strings.Cut(line[1:], "'")
				word.WriteString(text)
				line = rest
			case '\\':
				word.WriteByte(line[1])
				line = line[2:]
			default:
				word.WriteByte(line[0])
				line = line[1:]
			}
		}
		words = append(words, word.String())
		line = strings.TrimLeft(line, " ")
	}
	return words
}
