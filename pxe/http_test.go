package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
	"provision/images"
	"provision/internal/initrd"
)

// withImage adds an image of some size to the catalog; the bytes it is made
// of are returned.
func (s *Server) withImage(t testing.TB, size int) (kernel, initrdData []byte) {
	t.Helper()
	return s.addImage(t, "lab", images.X86_64, map[int]string{0x1fe: "\x55\xaa", 0x202: "HdrS\x0f\x02", 0x236: "\x03\x00"}, size)
}

// addImage adds an image whose kernel has magic numbers at some offsets.
func (s *Server) addImage(t testing.TB, name string, arch images.Arch, magic map[int]string, size int) (kernel, initrdData []byte) {
	t.Helper()
	kernel = make([]byte, 70000)
	for at, bytes := range magic {
		copy(kernel[at:], bytes)
	}
	initrdData = initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("provision"), size/9)}})
	dir := t.TempDir()
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/nix/store/x/init quiet"}
	if err := errors.Join(os.WriteFile(src.Kernel, kernel, 0o600), os.WriteFile(src.Initrd, initrdData, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Images.Add(context.Background(), name, arch, src, nil); err != nil {
		t.Fatal(err)
	}
	return kernel, initrdData
}

// begin enrolls a host and gives its machine a boot.
func (s *Server) begin(t testing.TB) hosts.Host {
	t.Helper()
	s.mustEnroll(t, "bravo", mac)
	return s.again(t)
}

func (s *Server) again(t testing.TB) hosts.Host {
	t.Helper()
	h, err := s.Hosts.BeginBoot("bravo", hosts.Boot{Expires: noon.Add(s.BootTime), Server: "10.77.0.1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// get asks over a real connection from loopback.
func get(t testing.TB, srv *httptest.Server, method, path, byteRange string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

func TestBootFiles(t *testing.T) {
	s := server(t, Full)
	kernel, initrdData := s.withImage(t, 90001)
	h := s.begin(t)
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	base := "/boot/" + h.Boot.Token

	_, script, err := get(t, srv, http.MethodGet, base+"/script", "")
	if err != nil || !strings.HasPrefix(string(script), "#!ipxe\n") ||
		!strings.Contains(string(script), "kernel --name kernel http://10.77.0.1"+base+"/kernel initrd=initrd init=/nix/store/x/init quiet BOOTIF=01-${netX/mac:hexhyp} ||") {
		t.Errorf("script: %v\n%s", err, script)
	}
	if _, got, err := get(t, srv, http.MethodGet, base+"/kernel", ""); err != nil || !bytes.Equal(got, kernel) {
		t.Errorf("kernel: %d bytes, %v", len(got), err)
	}

	// HEAD does not use the boot up, and tells the length of the whole.
	resp, _, err := get(t, srv, http.MethodHead, base+"/initrd", "")
	if err != nil || resp.StatusCode != http.StatusOK || resp.ContentLength <= int64(len(initrdData)) || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("HEAD: %+v, %v", resp, err)
	}
	size := resp.ContentLength

	// A range across the seam between the image's initrd and the overlay.
	seam := int64(len(initrdData))
	resp, part, err := get(t, srv, http.MethodGet, base+"/initrd", fmt.Sprintf("bytes=%d-%d", seam-10, seam+20))
	if err != nil || resp.StatusCode != http.StatusPartialContent || len(part) != 31 || !bytes.Equal(part[:10], initrdData[seam-10:]) ||
		resp.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", seam-10, seam+20, size) {
		t.Errorf("range: %+v, %d bytes, %v", resp, len(part), err)
	}
	if resp, _, _ := get(t, srv, http.MethodGet, base+"/initrd", fmt.Sprintf("bytes=%d-", size)); resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("a range past the end: %s", resp.Status)
	}

	resp, whole, err := get(t, srv, http.MethodGet, base+"/initrd", "")
	if err != nil || int64(len(whole)) != size || resp.ContentLength != size || !bytes.Equal(whole[:seam], initrdData) || !bytes.Equal(whole[seam-10:seam+21], part) {
		t.Fatalf("initrd: %d of %d bytes, %v", len(whole), size, err)
	}
	overlay := whole[seam+initrd.Padding(seam):]
	if (seam+initrd.Padding(seam))%4 != 0 || !bytes.HasPrefix(overlay, []byte("070701")) {
		t.Error("the overlay does not start 4-byte aligned")
	}
	for _, want := range []string{"ssh/authorized_keys", s.Login, "ssh/ssh_host_ed25519_key", "BEGIN OPENSSH PRIVATE KEY", h.Boot.HostKey, "provision.json", "machine-id"} {
		if !bytes.Contains(overlay, []byte(want)) {
			t.Errorf("the overlay lacks %q", want)
		}
	}
	if key, _ := s.Hosts.Secret("bravo", hosts.SecretHostKey); bytes.Contains(overlay, key) {
		t.Error("the host's own key went over HTTP")
	}

	// Now the boot is used up.
	for _, file := range []string{"script", "kernel", "initrd"} {
		if resp, _, err := get(t, srv, http.MethodGet, base+"/"+file, ""); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s a second time: %v, %v", file, resp, err)
		}
	}
}

// TestOddPaths: what firmware makes of a URL is read as a name over TFTP is, and what there is not is told in the trace
// of the machine that asked for it.
func TestOddPaths(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	s.dhcp(packet(t, "ovmf-x64-discover"))
	h, err := s.Hosts.Get("bravo")
	if err != nil || h.Boot.MAC != mac {
		t.Fatalf("%s has no boot: %v", h.Name, err)
	}
	srv := httptest.NewServer(s.withCache(s.routes(s.links[0])))
	defer srv.Close()
	status := func(target string) string {
		t.Helper()
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HEAD %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target)
		answer, err := io.ReadAll(conn)
		if err != nil && len(answer) == 0 {
			return ""
		}
		line, _, _ := strings.Cut(string(answer), "\r\n")
		return strings.TrimPrefix(line, "HTTP/1.1 ")
	}
	program := "boot/" + h.Boot.Token + "/" + images.ProgramNative
	for _, target := range []string{
		"/" + program, "//" + program, "/boot//" + h.Boot.Token + "///" + images.ProgramNative,
		"/" + program + "\xff", "/" + program + "%FF", "/" + program + "%01more",
	} {
		if got := status(target); got != "200 OK" {
			t.Errorf("%q: %q", target, got)
		}
	}

	for _, tt := range []struct{ target, status, missing string }{
		{"//boot/" + h.Boot.Token + "/other.efi\xff", "404 Not Found", `other.efi\xff`},
		{"/" + program + "x", "404 Not Found", images.ProgramNative + "x"},
		{"/boot/" + h.Boot.Token + "/a/b", "404 Not Found", "a/b"},
		{"//elsewhere/" + h.Boot.Token, "", "elsewhere/…"},
	} {
		if got := status(tt.target); got != tt.status {
			t.Errorf("%q: %q", tt.target, got)
		}
		if tr, err := s.Traces.Get(mac); err != nil || tr.Missing != tt.missing {
			t.Errorf("%q: the trace has %q, %v", tt.target, tr.Missing, err)
		}
	}
	s.links[0].neighbour = func(netip.Addr) string { return "52:54:00:00:00:66" }
	for _, target := range []string{"//" + program, "/" + program + "\xff", "//elsewhere"} {
		if got := status(target); got != "" {
			t.Errorf("a stranger gets %q for %q", got, target)
		}
	}
	if _, err := s.Traces.Get("52:54:00:00:00:66"); err == nil {
		t.Error("a stranger has a trace")
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	s := server(t, Full)
	s.withImage(t, 9000)
	s.begin(t)
	srv := httptest.NewUnstartedServer(s.routes(s.links[0]))
	srv.Config.ErrorLog = nil
	srv.Start()
	defer srv.Close()
	for _, path := range []string{"/", "/boot", "/boot/ipxe.efi", "/boot/" + strings.Repeat("0", 32) + "/kernel", "/boot/../../etc/passwd", "/hold/" + mac + ".ipxe", "/v1/hosts"} {
		if resp, _, err := get(t, srv, http.MethodGet, path, ""); err == nil {
			t.Errorf("%s was answered: %s", path, resp.Status)
		}
	}
	if resp, _, err := get(t, srv, http.MethodPost, "/boot/x/kernel", ""); err == nil {
		t.Errorf("POST was answered: %s", resp.Status)
	}
}

// TestInstalledIsRefused: the URL of its last boot does not help an installed
// host's machine, at any time on the way there.
func TestInstalledIsRefused(t *testing.T) {
	s := server(t, Full)
	s.withImage(t, 9000)
	h := s.begin(t)
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	kernel := "/boot/" + h.Boot.Token + "/kernel"
	if resp, _, err := get(t, srv, http.MethodGet, kernel, ""); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	for _, ev := range []hosts.Event{{Kind: hosts.EventContacted, Address: "127.0.0.1", Boot: &h.Boot}, {Kind: hosts.EventBurned}, {Kind: hosts.EventRebooted}, {Kind: hosts.EventProved}} {
		h, err := s.Hosts.Apply("bravo", ev)
		if err != nil {
			t.Fatal(err)
		}
		if resp, _, err := get(t, srv, http.MethodGet, kernel, ""); err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("kernel while %s: %v, %v", h.State, resp, err)
		}
	}
	_, body, err := get(t, srv, http.MethodGet, "/boot/"+h.Boot.Token+"/script", "")
	if err != nil || string(body) != localScript {
		t.Errorf("script of an installed host: %q, %v", body, err)
	}
	if events, _ := s.Hosts.Events("bravo", 0); !strings.Contains(fmt.Sprint(events), "asked for kernel with the token of a boot that is over") {
		t.Error("the log does not tell")
	}
}

func TestLostImage(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	h := s.again(t)
	if err := s.Images.Remove("lab", nil); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	resp, _, err := get(t, srv, http.MethodGet, "/boot/"+h.Boot.Token+"/kernel", "")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Error(resp, err)
	}
	if events, _ := s.Hosts.Events("bravo", 0); !strings.Contains(fmt.Sprint(events), "its image cannot be served") {
		t.Error("the log does not tell")
	}
}

func TestByteRange(t *testing.T) {
	for _, tt := range []struct {
		header        string
		first, length int64
		partial, ok   bool
	}{
		{"", 0, 100, false, true},
		{"bytes=0-0", 0, 1, true, true},
		{"bytes=10-19", 10, 10, true, true},
		{"bytes=90-", 90, 10, true, true},
		{"bytes=90-500", 90, 10, true, true},
		{"bytes=-7", 93, 7, true, true},
		{"bytes=-700", 0, 100, true, true},
		{"bytes=100-", 100, 0, true, false},
		{"bytes=-0", 100, 0, true, false},
		{"bytes=5-4", 0, 100, false, true},
		{"bytes=0-1,5-6", 0, 100, false, true},
		{"bytes=x-y", 0, 100, false, true},
		{"bytes=99999999999999999999-", 0, 100, false, true},
		{"pages=1-2", 0, 100, false, true},
	} {
		first, length, partial, ok := byteRange(tt.header, 100)
		if first != tt.first || length != tt.length || partial != tt.partial || ok != tt.ok {
			t.Errorf("%q: %d, %d, %v, %v", tt.header, first, length, partial, ok)
		}
	}
}

// imageFor is the name of an image of this architecture.
func (s *Server) imageFor(t testing.TB, arch string) string {
	t.Helper()
	if arch == "x86_64" {
		return "lab"
	}
	kernel := make([]byte, 70000)
	copy(kernel[0x38:], "ARM\x64")
	dir := t.TempDir()
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/nix/store/x/init quiet"}
	initrdData := initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755}})
	if err := errors.Join(os.WriteFile(src.Kernel, kernel, 0o600), os.WriteFile(src.Initrd, initrdData, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Images.Add(context.Background(), "arm", images.AArch64, src, nil); err != nil {
		t.Fatal(err)
	}
	return "arm"
}

// TestOvertaken: that an operator forgets a host while its machine asks is no error of the server's.
func TestOvertaken(t *testing.T) {
	var log bytes.Buffer
	s := server(t, Full)
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	h := s.begin(t)
	if err := s.Hosts.Forget("bravo", "a test"); err != nil {
		t.Fatal(err)
	}
	s.note(h, "a note")
	m := packet(t, "ovmf-x64-request")
	s.moved(s.links[0], h, m, requested(m))
	s.started(h, "10.77.0.104", hosts.Work{})
	if _, err := s.boot(s.links[0], bootClient{MAC: mac}, h); !overtaken(err) {
		t.Errorf("a boot: %v", err)
	}
	if log.Len() > 0 {
		t.Errorf("the log says:\n%s", &log)
	}
}
