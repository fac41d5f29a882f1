package pxe

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/iana"
	"github.com/labstack/echo/v4"

	"provision/hosts"
)

// An iPXE that got no script by DHCP asks for one at /ipxe: in mode Off each
// that the operator's DHCP server sends here, and in all modes that of a boot
// medium (media.Script).

// serveIPXE gives it the script of its boot, or one that says what else to do.
// Its MAC and its state decide, as they do for DHCP.
func (s *Server) serveIPXE(l *servedLink, c echo.Context) error {
	from := remote(c)
	medium := c.QueryParam("from") == "medium"
	cl := bootClient{MAC: s.whoAsks(c.Request().Context(), l, from.Addr(), c.QueryParam("mac")), Kind: ipxe,
		Arch: buildArch(c.QueryParam("platform"), c.QueryParam("arch")), Machine: uuidText(c.QueryParam("uuid"))}
	told := c.QueryParam("arch") != ""
	if cl.MAC == "" && s.Mode != Off {
		return echo.ErrNotFound
	}
	h, err := s.Hosts.ByMAC(cl.MAC)
	switch {
	case cl.MAC == "" || err == nil && !told:
		c.Set("known", true)
		return c.Blob(http.StatusOK, "text/plain", []byte(whoScript(s.url(l.self.String(), "ipxe"))))
	case errors.Is(err, hosts.ErrNotFound):
		d := hosts.Discovered{MAC: cl.MAC, Arch: "iPXE"}
		if told {
			d.Arch, d.Board = cl.String(), cl.board()
		}
		s.Hosts.See(d)
		if medium && s.Unknown == Hold {
			c.Set("known", true)
			return c.Blob(http.StatusOK, "text/plain", []byte(holdMediumScript(l.self.String(), cl.MAC)))
		}
		return s.serveHold(l, c)
	case err != nil:
		return err
	}

	c.Set("known", true)
	s.traceHTTP(l, from, cl.MAC, c.Request().Method, "ipxe")
	s.traceClient(cl, h)
	if a := s.decide(cl, &h); a.Load != script {
		return c.Blob(http.StatusOK, "text/plain", []byte(localScript))
	}
	boot, err := s.boot(l, cl, h)
	if err != nil || boot.Token == "" {
		return errors.Join(echo.ErrNotFound, err)
	}

	how := hosts.Method{Offer: hosts.OfferROM}
	if medium {
		how.Offer = hosts.OfferMedium
	}
	if h, err = s.Hosts.UseBoot(boot.Token, hosts.Fetch{Client: from.Addr().String(), File: "script", Method: how}); err != nil {
		return echo.ErrNotFound
	}

	return s.serveImage(l, c, h, "script")
}

// whoAsks is the MAC of who asks from an address; "" if that is not known. On
// the link the kernel knows it, whatever it says itself. From a network that is
// served it is believed in mode Off, where there is no other way; in the others if
// DHCP has seen that MAC take this very address, through a relay.
func (s *Server) whoAsks(ctx context.Context, l *servedLink, from netip.Addr, told string) string {
	if mac := l.resolve(ctx, from); mac != "" || l.net.Contains(from) {
		return mac
	}
	mac, err := hosts.ParseMAC(told)
	if err != nil {
		return ""
	}

	if s.Mode == Off {
		if s.serves(from) {
			return mac
		}
		if s.beyond.due(s.Now()) {
			s.Log.Warn("iPXE from a network that is not served is not answered; if it is yours, serve with --relay NETWORK", "mac", mac, "address", from)
		}
		return ""
	}

	if h, err := s.Hosts.ByMAC(mac); err == nil && h.Address == from.String() {
		return mac
	}
	return ""
}

// uuidText is the SMBIOS UUID that iPXE tells, as DHCP's option 97 would have it
// (machineID); "" if it is none.
func uuidText(s string) string {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		return ""
	}
	return machineID(append([]byte{0}, raw...))
}

// buildArch is an architecture in iPXE's words (https://ipxe.org/cfg/platform,
// https://ipxe.org/cfg/buildarch): a BIOS's is i386 on all PCs.
func buildArch(platform, arch string) iana.Arch {
	switch {
	case arch == "arm64":
		return iana.EFI_ARM64
	case platform == "pcbios":
		return iana.INTEL_X86PC
	case arch == "x86_64":
		return iana.EFI_X86_64
	}
	return iana.EFI_IA32
}
