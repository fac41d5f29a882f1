package pxe

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"provision/hosts"
)

// FuzzDHCP feeds packets to both ports in all modes that have them, with a
// host in each state. What may be answered, wrong says.
func FuzzDHCP(f *testing.F) {
	for i, p := range recorded(f) {
		f.Add(p, uint8(0))
		copy(p[28:34], []byte{0x52, 0x54, 0, 0x12, 0x34, byte(1 + i%(roles-1))})
		f.Add(p, uint8(i))
	}
	all := targets(f)
	f.Fuzz(func(t *testing.T, data []byte, where uint8) {
		for _, tg := range all {
			if tg.Mode == Off {
				continue
			}
			port := uint16(67)
			if where&1 == 1 {
				port = 4011
			}
			tg.dhcpPacket(t, data, port)
		}
	})
}

// FuzzTFTP feeds datagrams to what opens files for the TFTP server: only files of a live boot may pass. (internal/tftp
// fuzzes the parser.)
func FuzzTFTP(f *testing.F) {
	all := targets(f)
	for _, captured := range capturedRequests(f) {
		f.Add(captured)
		for _, tg := range all[:1] {
			f.Add(bytes.Replace(captured, []byte("foo"), []byte(bootPath+tg.booting(f)), 1))
		}
	}
	good := bootPath + all[0].booting(f) + "/ipxe.efi"
	f.Add([]byte("\x00\x01" + good + "\x00octet\x00tsize\x000\x00blksize\x001468\x00"))
	f.Add([]byte("\x00\x01//" + good + "\x00netascii\x00tsize\x00x\x00blksize\x000\x00timeout\x000\x00"))
	f.Add([]byte("\x00\x02" + good + "\x00octet\x00"))
	f.Add([]byte("\x00\x01boot/hold/snponly.efi\x00octet\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, tg := range all {
			tg.tftpPacket(t, data)
		}
		describeTFTP(data)
	})
}

// booting begins a boot of the ready host, and returns its token.
func (tg *target) booting(t testing.TB) string {
	t.Helper()
	h, err := tg.Hosts.Get(fmt.Sprintf("host%d", roleReady))
	if err == nil && h.State != hosts.StateBooting {
		h, err = tg.Hosts.BeginBoot(h.Name, hosts.Boot{MAC: h.MACs[0], Server: "10.77.0.1", Expires: tg.clock.Add(1000 * time.Hour)}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.Boot.Token
}

// FuzzHTTP feeds whole requests to all modes: what has no live token gets no
// answer at all, but in --unknown=hold the script that says how to enroll, and
// in mode Off that which asks an iPXE for its MAC.
func FuzzHTTP(f *testing.F) {
	all := targets(f)
	var handlers []http.Handler
	for _, tg := range all {
		handlers = append(handlers, tg.routes(tg.links[0]))
	}
	const token = "TOKEN" // stands for that of each server
	for _, path := range []string{"/boot/TOKEN/script", "/boot/TOKEN/kernel", "/boot/TOKEN/initrd", "/boot/TOKEN/ipxe.efi", "/boot/hold/ipxe.efi",
		"/hold/52:54:00:12:34:01", "/ipxe?mac=52:54:00:12:34:01", "/ipxe.efi", "/boot/TOKEN/../../state.db", "//boot//TOKEN/%2e%2e/x", "*"} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			f.Add(method+" "+path+" HTTP/1.1\r\nHost: 10.77.0.1\r\n\r\n", "bytes=0-")
		}
	}
	f.Add("GET /boot/TOKEN/initrd HTTP/1.0\r\n\r\n", "bytes=-1")
	f.Add("GET /boot/TOKEN/kernel HTTP/1.1\r\nHost: x\r\n\r\n", "bytes=9-3,1-2")
	f.Fuzz(func(t *testing.T, raw, ranged string) {
		for i, tg := range all {
			own := tg.booting(t)
			req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.ReplaceAll(raw, token, own))))
			if err != nil {
				return
			}
			req.RemoteAddr = "10.77.0.104:4711"
			req.Header.Set("Range", ranged)
			out := httptest.NewRecorder()
			if aborted(handlers[i], out, req) {
				if out.Body.Len() > 0 {
					t.Errorf("%s: half an answer to %q", tg.name, raw)
				}
				continue
			}
			body, path := out.Body.String(), req.URL.Path
			switch {
			case strings.Contains(path, own): // as it should be
			case strings.Contains(body, own):
				t.Errorf("%s: %q is told the token", tg.name, raw)
			case tg.Unknown == Hold && (body == holdScript("10.77.0.1") || strings.HasPrefix(path, "/boot/hold/") || tg.Mode == Off):
			case tg.Mode == Off && strings.HasPrefix(body, "#!ipxe"):
			case len(body) > 0:
				t.Errorf("%s: %q is answered %d: %q", tg.name, raw, out.Code, body[:min(len(body), 200)])
			}
			if out.Code == http.StatusPartialContent && req.Method == http.MethodGet {
				if want := out.Header().Get("Content-Length"); want != fmt.Sprint(out.Body.Len()) {
					t.Errorf("%s: %q, %q: %d bytes, and %s were announced", tg.name, raw, ranged, out.Body.Len(), want)
				}
			}
		}
	})
}

// aborted serves one request, and reports whether it got no answer.
func aborted(h http.Handler, w http.ResponseWriter, r *http.Request) (yes bool) {
	defer func() {
		if v := recover(); v != nil {
			if yes = v == http.ErrAbortHandler; !yes {
				panic(v)
			}
		}
	}()
	h.ServeHTTP(w, r)
	return false
}

// FuzzByteRange: what is to be sent lies within the file.
func FuzzByteRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-", "bytes=0-0", "bytes=-5", "bytes=5-", "bytes=9-3", "bytes=0-1,3-4", "bytes=-0", "bytes=--1", "bytes=1-18446744073709551616"} {
		f.Add(header, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		size &= 1<<62 - 1
		first, length, partial, ok := byteRange(header, size)
		if !ok {
			return
		}
		if first < 0 || length < 0 || first > size || length > size-first || !partial && (first != 0 || length != size) || partial && length == 0 {
			t.Errorf("%q of %d bytes: %d from %d, partial %v", header, size, length, first, partial)
		}
	})
}

// FuzzRange: a range that is taken can be counted through.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"10.0.0.100-10.0.0.199", "10.0.0.1-10.0.0.1", "10.1.0.10-10.1.0.99/24", "0.0.0.0-255.255.255.255", "10.0.0.9-10.0.0.1", "::1-::2", "a-b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if n := r.size(); n < 1 || n > MaxRange || r.at(0) != r.First || r.at(n-1) != r.Last || !r.contains(r.First) || !r.contains(r.Last) || r.contains(r.Last.Next()) {
			t.Errorf("%q became %v, %d addresses", s, r, n)
		}
		again, err := ParseRange(r.String())
		if again.Bits = r.Bits; err != nil || again != r {
			t.Errorf("%q became %v, and then %v, %v", s, r, again, err)
		}
	})
}

// FuzzScript: no name that a host may have, and no MAC, adds a command to what
// iPXE and U-Boot run.
func FuzzScript(f *testing.F) {
	for _, s := range []string{"bravo", "a\nboot", "${net0/mac}", "a;shell", "-", "x||exit"} {
		f.Add(s, "52:54:00:12:34:56", "52:54:00:12:34:56")
	}
	f.Add("bravo", "52-54-00-12-34-56", "5254.0012.3456")
	s := server(f, Full)
	lines := func(text string) int { return strings.Count(text, "\n") }
	f.Fuzz(func(t *testing.T, name, mac, option string) {
		mac, err := hosts.ParseMAC(mac)
		if err != nil || hosts.CheckName(name) != nil {
			return
		}
		h := hosts.Host{Name: name, Boot: hosts.Boot{Token: strings.Repeat("0", 32), MAC: mac}}
		ipxe, uboot := s.bootScript("10.77.0.1", h, "init=/x"), ubootConfig(h, "init=/x", "../")
		if lines(ipxe) != 9 || lines(uboot) != 7 || strings.Count(ipxe, "$") != 1 || strings.Count(ipxe, "||") != 3 {
			t.Errorf("%q, %q: %s\n%s", name, mac, ipxe, uboot)
		}
		for _, c := range printable(option) {
			if c < ' ' || c > '~' {
				t.Errorf("%q is not harmless", printable(option))
			}
		}
	})
}
