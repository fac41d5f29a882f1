package pxe

import (
	"bytes"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// FuzzDHCP feeds packets to both ports in both modes, with one host ready and
// one installed. Nothing may panic, and only the ready one may be booted.
func FuzzDHCP(f *testing.F) {
	for _, name := range []string{"ovmf-x64-discover", "ovmf-x64-request", "ipxe-discover", "ipxe-request"} {
		f.Add(packet(f, name).ToBytes())
	}
	var servers []*Server
	for _, mode := range []Mode{Proxy, Full} {
		s := server(f, mode)
		s.mustEnroll(f, "ready", mac)
		s.mustEnroll(f, "done", "52:54:00:12:34:57")
		s.reach(f, "done", hosts.Installed)
		servers = append(servers, s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range servers {
			for _, answer := range []func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4{s.dhcp, s.binl} {
				m, err := dhcpv4.FromBytes(data)
				if err != nil {
					return
				}
				r := answer(m)
				if r == nil {
					continue
				}
				destination(m, r)
				r.ToBytes()
				if m.ClientHWAddr.String() != mac && r.BootFileName != "" {
					t.Errorf("%s was told to boot %s", m.ClientHWAddr, r.BootFileName)
				}
				if h, err := s.Hosts.ByMAC(m.ClientHWAddr.String()); err != nil {
					t.Errorf("%s was answered: %v", m.ClientHWAddr, h)
				}
				if s.Mode == Proxy && !r.YourIPAddr.IsUnspecified() {
					t.Errorf("a proxy gave the address %s", r.YourIPAddr)
				}
			}
		}
	})
}

// FuzzTFTP feeds datagrams to the parser in front of the TFTP server: only the
// program of the one live boot may pass, and the library sees nothing odd.
func FuzzTFTP(f *testing.F) {
	s := server(f, Full)
	h := s.begin(f)
	s.mustEnroll(f, "done", "52:54:00:12:34:57")
	good := "boot/" + h.Boot.Token + "/ipxe.efi"
	for _, captured := range capturedRequests(f) {
		f.Add(captured)
		f.Add(bytes.Replace(captured, []byte("foo"), []byte("boot/"+h.Boot.Token), 1))
	}
	f.Add([]byte("\x00\x01" + good + "\x00octet\x00tsize\x000\x00blksize\x001468\x00"))
	f.Add([]byte("\x00\x01//" + good + "\x00netascii\x00tsize\x00x\x00blksize\x000\x00timeout\x000\x00"))
	f.Add([]byte("\x00\x02" + good + "\x00octet\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := parseTFTP(data)
		if !ok {
			return
		}
		if file, err := s.open(s.links[0], r.name, addrPort("10.77.0.104:1024")); err == nil {
			file.close(false)
			if r.name != good {
				t.Errorf("%q is served", r.name)
			}
		}
		if r.write || !r.octet {
			return
		}
		p := r.packet()
		if len(p) > 512 {
			t.Errorf("%d bytes do not fit the library's buffer", len(p))
		}
		if again, ok := parseTFTP(p); !ok || again != r {
			t.Errorf("%+v became %+v, %v", r, again, ok)
		}
	})
}
