package pxe

import (
	"fmt"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/internal/store"
)

// BenchmarkDHCP is one DISCOVER from bytes to bytes: parse, look up, decide,
// reply. The number of enrolled hosts must make no difference.
func BenchmarkDHCP(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		s := server(b, Full)
		fill(b, s.Leases.(store.Store), n)
		inv, err := hosts.New(s.Leases.(store.Store), nil, s.Now)
		if err != nil {
			b.Fatal(err)
		}
		s.Hosts = inv
		raw := packet(b, "ovmf-x64-discover").ToBytes()
		copy(raw[28:34], []byte{0x52, 0x54, 0, 0, 0, 7})
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := dhcpv4.FromBytes(raw)
				if err != nil {
					b.Fatal(err)
				}
				r := s.dhcp(m)
				if r == nil {
					b.Fatal("silence")
				}
				if len(r.ToBytes()) == 0 || r.BootFileName == "" {
					b.Fatal("no boot")
				}
			}
		})
	}
}

// fill writes n booting hosts straight into the store, many at a time: to
// enroll each by itself would take an fsync each.
func fill(b *testing.B, db store.Store, n int) {
	b.Helper()
	var writes []store.Write
	for i := range n {
		name := fmt.Sprintf("host%06d", i)
		mac := fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
		h := fmt.Sprintf(`{"name":%q,"macs":[%q],"arch":"x86_64","state":"booting","permit":{"issued":%q,"expires":%q},"boot":{"token":"%032x","mac":%q,"expires":%q}}`,
			name, mac, noon.Format(time.RFC3339), noon.Add(time.Hour).Format(time.RFC3339), i, mac, noon.Add(time.Hour).Format(time.RFC3339))
		writes = append(writes, store.Put("host/"+name, []byte(h)), store.Put("mac/"+mac, []byte(name)))
		if len(writes) > 10_000 || i == n-1 {
			if err := db.Commit(b.Context(), nil, writes); err != nil {
				b.Fatal(err)
			}
			writes = nil
		}
	}
}
