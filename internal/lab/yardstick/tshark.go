package yardstick

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"provision/internal/lab/netboot"
)

// Datagram is a UDP datagram as it went over the wire.
type Datagram struct {
	From, To netip.AddrPort
	Data     []byte
}

// Malformed has tshark decode all packets, and returns what it finds wrong with them: malformed fields, errors and
// warnings, each with the number of its packet from 0 and its addresses. That a TFTP packet is an ERROR is not wrong.
func Malformed(ctx context.Context, packets []Datagram) ([]string, error) {
	cmd := exec.CommandContext(ctx, "tshark", "-n", "-V", "-r", "-")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(pcap(packets)), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("decode packets with tshark: %w: %s", err, stderr.String())
	}
	var wrong []string
	frame := -1
	for line := range strings.Lines(stdout.String()) {
		if strings.HasPrefix(line, "Frame ") {
			frame++
		}
		line = strings.TrimSpace(line)
		bad := strings.Contains(line, "Malformed") || strings.Contains(line, "[Expert Info (Error") || strings.Contains(line, "[Expert Info (Warn")
		if bad && !strings.Contains(line, "TFTP ERROR packet") {
			p := packets[frame]
			wrong = append(wrong, fmt.Sprintf("packet %d, %s to %s: %s", frame, p.From, p.To, line))
		}
	}
	if frame+1 != len(packets) {
		return wrong, fmt.Errorf("decode packets with tshark: it saw %d of %d: %s", frame+1, len(packets), stderr.String())
	}
	return wrong, nil
}

// pcap is a capture file of raw IP packets.
func pcap(packets []Datagram) []byte {
	le := binary.LittleEndian
	var b []byte
	for _, field := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 1 << 18, 101} { // version 2.4; LINKTYPE_RAW
		b = le.AppendUint32(b, field)
	}
	for i, p := range packets {
		ip := netboot.UDP(p.From, p.To, p.Data)
		for _, field := range []uint32{uint32(i), 0, uint32(len(ip)), uint32(len(ip))} {
			b = le.AppendUint32(b, field)
		}
		b = append(b, ip...)
	}
	return b
}
