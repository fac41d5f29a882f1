package pxe

import (
	"encoding/hex"
	"errors"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// installerOf is the host whose installer asks from a network card that is not enrolled, or nil: firmware may pass on
// the MAC of another card than a dock's, which the kernel's driver then uses. It is known by its client identifier (RFC
// 4361: 255, four bytes for the card, a DUID).
func (e *exchange) installerOf() *hosts.Host {
	const duidAt = 5
	id := e.request.Options.Get(dhcpv4.OptionClientIdentifier)
	if e.client.profile().loads != nothing || len(id) <= duidAt || id[0] != 255 {
		return nil
	}
	h, err := e.Hosts.ByDUID(hex.EncodeToString(id[duidAt:]))
	if err != nil {
		if !errors.Is(err, hosts.ErrNotFound) {
			e.Log.Error("look up whose installer asks", "mac", e.client.MAC, "err", err)
		}
		return nil
	}
	if !installerRuns(&h) {
		return nil
	}
	return &h
}
