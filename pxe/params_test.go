package pxe

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/tftp"
)

// TestKernelParams: the operator's parameters for the image and for the host are in what iPXE, U-Boot and a
// Raspberry Pi's firmware start the kernel with, behind the image's own.
func TestKernelParams(t *testing.T) {
	s := piServer(t, Full)
	s.withImage(t, 9000)
	for _, image := range []string{"lab", "arm"} {
		if _, err := s.Images.SetKernelParams(image, []string{"console=tty1", "nomodeset"}); err != nil {
			t.Fatal(err)
		}
	}
	params := []string{"console=ttyS0,115200"}
	_, err := s.Hosts.Enroll(hosts.Host{Name: "alpha", MACs: []string{mac}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab", KernelParams: params}}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.enrollPi(t, "bravo", mac4, func(h *hosts.Host) { h.KernelParams = params })
	boot := hosts.Boot{Expires: noon.Add(s.BootTime), Server: "10.77.0.1"}
	alpha, err := s.Hosts.BeginBoot("alpha", boot, "")
	if err != nil {
		t.Fatal(err)
	}
	s.dhcp(packet(t, "pi4-discover"))
	bravo, err := s.Hosts.Get("bravo")
	if err != nil {
		t.Fatal(err)
	}

	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	_, script, err := get(t, srv, http.MethodGet, "/"+bootPath+alpha.Boot.Token+"/script", "")
	if err != nil {
		t.Fatal(err)
	}
	got := "iPXE:\n" + string(script) +
		"\nRaspberry Pi:\n" + s.fetch(t, "bravo", "cmdline.txt") +
		"\nU-Boot:\n" + s.pxelinuxOf(t, bravo)
	got = strings.NewReplacer(alpha.Boot.Token, "TOKEN", bravo.Boot.Token, "TOKEN").Replace(got)
	got = regexp.MustCompile(`provision\.sha256=\S+`).ReplaceAllString(got, "provision.sha256=DIGESTS")
	compare(t, "kernel-params.golden", got)
}

// pxelinuxOf is the configuration that U-Boot fetches for a host's boot, once its first stage is made.
func (s *Server) pxelinuxOf(t *testing.T, h hosts.Host) string {
	t.Helper()
	for {
		f, err := s.openOfBoot(h, pxelinux(h.Boot.MAC), "", netip.MustParseAddrPort("10.77.0.9:2000"))
		if errors.Is(err, tftp.ErrNotServed) {
			continue // it was waited for as long as U-Boot waits
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f.Content)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}
