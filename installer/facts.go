package installer

import (
	"context"
	"fmt"
	"iter"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"provision/disko"
	"provision/hosts"
)

// facts asks the machine what it is: disks, firmware, memory, network cards,
// one of which must be the host's. It waits at most limit for what changes the machine.
func (i *install) facts(ctx context.Context, limit time.Duration) (*disko.Facts, error) {
	var facts *disko.Facts
	var lines, macs []string
	asked, within := errgroup.WithContext(ctx)
	asked.Go(func() (err error) {
		facts, err = i.readDisks(within, i.session, limit)
		return err
	})
	asked.Go(func() (err error) {
		lines, macs, err = describeMachine(within, i.session)
		return err
	})
	if err := asked.Wait(); err != nil {
		return nil, err
	}
	if err := i.knownCard(macs); err != nil {
		return nil, err
	}

	if i.host.TPM2 != "" {
		if _, err := cryptenroll(ctx, i.session); err != nil {
			return nil, err
		}
		lines = append(lines, "TPM 2.0")
	}

	for _, d := range facts.Disks() {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %.1f GB %s", d.Device, float64(d.Size)/1e9, d.Content)))
	}
	i.finished(hosts.PhaseFacts, "%s", strings.Join(lines, "; "))
	return facts, nil
}

// readDisks asks for the disks as they are now, and keeps the answer for plans
// that are made while the machine is off.
func (f *reconciler) readDisks(ctx context.Context, s *session, limit time.Duration) (*disko.Facts, error) {
	raw, err := readFacts(ctx, s, limit, exclusiveLock(disko.Probe(nil)...))
	if err != nil {
		return nil, err
	}
	facts, err := disko.ParseFacts(raw)
	if err != nil {
		return nil, fmt.Errorf("read the machine's disks: %w", err)
	}
	return facts, f.Hosts.SetFacts(f.name, raw)
}

// readFacts is disko.Facts as JSON, by disko.Probe under the machine's lock.
func readFacts(ctx context.Context, s *session, limit time.Duration, probe []string) ([]byte, error) {
	out, err := s.runWithin(ctx, limit, nil, nil, probe...)
	if err != nil {
		return nil, fmt.Errorf("list the machine's disks: %w", err)
	}
	return disko.ReadProbe(out)
}

// knownCard makes sure that the machine is the host's. The one that fetched the boot by firmware is, for it has the
// boot's key; its kernel may use another network card, of which the operator is told.
func (i *install) knownCard(macs []string) error {
	if slices.ContainsFunc(i.host.MACs, func(m string) bool { return slices.Contains(macs, m) }) {
		return nil
	}
	if i.host.Boot.SSH || len(macs) == 0 {
		return fmt.Errorf("the machine at %s has the network cards %s, and %s is enrolled for %s", i.session.addr, strings.Join(macs, ", "),
			i.host.Name, strings.Join(i.host.MACs, ", "))
	}
	at := macs[0]
	if mac := neighbour(i.session.addr); slices.Contains(macs, mac) {
		at = mac
	}
	i.note("it was netbooted as %s, and none of its network cards has that MAC (with a dock, firmware may pass on "+
		"another "+
		"card's): it is reached at %s. While it restarts from its disk, run `provision set %s --mac=+%s`, and it "+
		"is known by both",
		i.host.Boot.MAC, at, i.host.Name, at)
	return nil
}

// describeMachine is firmware, memory and network cards, for the log, and the MACs of these.
func describeMachine(ctx context.Context, s *session) (lines, macs []string, err error) {
	out, err := s.run(ctx, nil, "sh", "-c", `if test -d /sys/firmware/efi; then echo UEFI; else echo BIOS; fi
head -n 1 /proc/meminfo && cat /sys/class/net/*/address`)
	if err != nil {
		return nil, nil, fmt.Errorf("read the machine's memory size and network cards: %w", err)
	}
	firmware, rest, _ := strings.Cut(string(out), "\n")
	mem, nics, _ := strings.Cut(rest, "\n") // MemTotal: 1048576 kB
	kib := 0
	if fields := strings.Fields(mem); len(fields) > 1 {
		kib, _ = strconv.Atoi(fields[1])
	}
	for _, field := range strings.Fields(nics) {
		if mac, err := hosts.ParseMAC(field); err == nil && mac != "00:00:00:00:00:00" {
			macs = append(macs, mac)
		}
	}

	return []string{firmware, fmt.Sprintf("%.1f GB memory", float64(kib)*1024/1e9), "network " + strings.Join(macs, " ")}, macs, nil
}

// readTable reads a disk's GPT back, as it is on the disk: its first and last
// sectors.
func readTable(ctx context.Context, s *session, d disko.Disk) (*disko.Table, error) {
	headLen, tailLen := disko.TableBytes(d.SectorSize)
	read := func(skip, count int64) ([]byte, error) {
		return s.run(ctx, nil, "dd", "if="+d.Device, "iflag=direct,fullblock", "status=none",
			fmt.Sprintf("bs=%d", d.SectorSize), fmt.Sprintf("skip=%d", skip/d.SectorSize), fmt.Sprintf("count=%d", count/d.SectorSize))
	}
	head, err := read(0, headLen)
	if err != nil {
		return nil, err
	}
	tail, err := read(d.Size-tailLen, tailLen)
	if err != nil {
		return nil, err
	}
	return disko.ReadTable(head, tail, d.Size, d.SectorSize)
}

// addresses are where the host's machine may answer: where it was last seen,
// and where our neighbour table has its MACs.
func addresses(h hosts.Host) []string {
	var found []string
	if h.Address != "" {
		found = append(found, h.Address)
	}
	if h.Boot.TakenBy != "" && !slices.Contains(found, h.Boot.TakenBy) {
		found = append(found, h.Boot.TakenBy)
	}
	for addr, mac := range neighbours() {
		if slices.Contains(h.MACs, mac) && !slices.Contains(found, addr) {
			found = append(found, addr)
		}
	}

	return found
}

// newcomers are where machines that are not enrolled went since the boot was fetched: with another network card than
// its firmware's, the host's may be one of them. The newest are first.
func (f *reconciler) newcomers(h hosts.Host) (found []string) {
	const most = 4 // each that does not answer is waited for
	if h.Boot.SSH || h.Boot.Used.IsZero() {
		return nil
	}
	for _, d := range f.Hosts.Discovered() {
		if d.Address != "" && d.Last.After(h.Boot.Used) && len(found) < most {
			found = append(found, d.Address)
		}
	}
	return found
}

// neighbours are the addresses of our neighbour table, with their MACs.
func neighbours() iter.Seq2[string, string] {
	return func(yield func(addr, mac string) bool) {
		data, err := os.ReadFile("/proc/net/arp") // proc_net(5): IP, type, flags, MAC, …
		if err != nil {
			return
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) < 4 || net.ParseIP(fields[0]) == nil {
				continue
			}
			if !yield(fields[0], fields[3]) {
				return
			}
		}
	}
}

// neighbour is the MAC of an address in our neighbour table; empty: none is known.
func neighbour(addr string) string {
	for a, mac := range neighbours() {
		if a == addr && mac != "00:00:00:00:00:00" {
			return mac
		}
	}
	return ""
}
