package hosts

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// DUID returns the DHCP Unique Identifier of the host's installer, in hex. It is the same for each of the machine's
// network cards: systemd-networkd derives it from the machine-id (a DUID-EN of RFC 8415 section 11.3; see
// sd_dhcp_duid_set_en in systemd). Anybody can compute it, so it helps to find the machine but proves nothing. It is
// empty for a host without a MAC.
func (h *Host) DUID() string {
	if len(h.MACs) == 0 {
		return ""
	}
	id, err := hex.DecodeString(h.MachineID())
	if err != nil {
		panic(err) // MachineID returns hex
	}
	return duidOf([16]byte(id))
}

// duidOf derives the DUID from a machine-id as systemd does: SipHash with a fixed key.
func duidOf(machineID [16]byte) string {
	const head = "00020000ab11" // type DUID-EN and systemd's enterprise number
	key := [16]byte{0x80, 0x11, 0x8c, 0xc2, 0xfe, 0x4a, 0x03, 0xee, 0x3e, 0xd6, 0x0c, 0x6f, 0x36, 0x39, 0x14, 0x09}
	return head + hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, siphash(key, machineID)))
}

// siphash is SipHash-2-4 (Aumasson and Bernstein, 2012) of 16 bytes.
func siphash(key, message [16]byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	v := [4]uint64{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	rounds := func(n int) {
		for range n {
			v[0] += v[1]
			v[2] += v[3]
			v[1] = bits.RotateLeft64(v[1], 13) ^ v[0]
			v[3] = bits.RotateLeft64(v[3], 16) ^ v[2]
			v[0] = bits.RotateLeft64(v[0], 32)
			v[2] += v[1]
			v[0] += v[3]
			v[1] = bits.RotateLeft64(v[1], 17) ^ v[2]
			v[3] = bits.RotateLeft64(v[3], 21) ^ v[0]
			v[2] = bits.RotateLeft64(v[2], 32)
		}
	}
	const length = uint64(len(message)) << 56
	uint64s := []uint64{
		binary.LittleEndian.Uint64(message[:]),
		binary.LittleEndian.Uint64(message[8:]),
		length,
	}
	for _, word := range uint64s {
		v[3] ^= word
		rounds(2)
		v[0] ^= word
	}

	v[2] ^= 0xff
	rounds(4)
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

// duidKey is the store key that leads from a DUID to a host.
func duidKey(duid string) string { return "duid/" + duid }

// ByDUID returns the host whose newest boot started an installer with this DUID, or ErrNotFound.
func (inv *Inventory) ByDUID(duid string) (Host, error) {
	h, err := inv.via(duidKey(duid))
	if err == nil && h.DUID() != duid { // its MACs changed since
		err = fmt.Errorf("host with the DUID %s: %w", duid, ErrNotFound)
	}
	return h, err
}
