package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
)

const captureHelp = `Show what one machine and this server said to each other when it last netbooted,
since the server started. With --pcap the datagrams are written for Wireshark;
HTTP requests are in the text only.

  provision capture bravo
  provision capture 52:54:00:12:34:56 --pcap bravo.pcap`

// captureCommand is `provision capture`.
func captureCommand(daemon *api.Client) *cobra.Command {
	var asJSON bool
	var file string
	c := &cobra.Command{Use: "capture HOST|MAC", Short: "show a machine's last netboot, packet by packet", Long: captureHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			var tr hosts.Trace
			if err := daemon.Call(c.Context(), http.MethodGet, api.TracePath(args[0]), nil, &tr); err != nil {
				return err
			}

			switch {
			case asJSON:
				return printJSON(c.OutOrStdout(), tr)
			case file == "-":
				return writePcap(raw(c.OutOrStdout()), tr)
			case file != "":
				return savePcap(file, tr)
			}

			showTrace(c.OutOrStdout(), tr)
			return nil
		}}
	c.Flags().StringVar(&file, "pcap", "", "write the datagrams to this file, in pcap format; - is standard output")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.MarkFlagsMutuallyExclusive("pcap", "json")
	return c
}

// showTrace prints one line for each packet: its time, its direction, and a summary.
func showTrace(w io.Writer, tr hosts.Trace) {
	who := tr.MAC
	if tr.Host != "" {
		who = tr.Host + " (" + tr.MAC + ")"
	}
	fmt.Fprintf(w, "%s, %s, at %s: %s\n", who, tr.Client, tr.First.Local().Format(time.DateTime), stageWords(tr))
	for _, p := range tr.Packets {
		arrow, peer := "→", p.From
		if p.Sent {
			arrow, peer = "←", p.To
		}
		fmt.Fprintf(w, "%9.3f  %s  %-21s  %s\n", p.Time.Sub(tr.First).Seconds(), arrow, peer, p.Text)
	}
}

// stageWords says, for people, how far a netboot has come.
func stageWords(tr hosts.Trace) string {
	switch tr.Stage {
	case hosts.StageAsked:
		return fmt.Sprintf("it asked, in %d rounds, and came no further yet", tr.Rounds)
	case hosts.StageRefused:
		return "nothing to boot: " + tr.Why
	case hosts.StageAddress:
		return "it took an address and came no further yet"
	case hosts.StageBINL:
		return "it asked port 4011 for its file and came no further yet"
	case hosts.StageProgram:
		return "it is loading its boot program"
	case hosts.StageLoaded:
		return "it has its boot program, which did not ask yet"
	case hosts.StageIPXE:
		return "iPXE asked, and fetched no script yet"
	case hosts.StageScript:
		return "it has its script"
	case hosts.StageKernel, hosts.StageInitrd:
		return "it is loading the " + string(tr.Stage)
	case hosts.StageStarted:
		return "it has everything to start its installer"
	}

	return "no netboot"
}

func savePcap(file string, tr hosts.Trace) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // it contains the token of a boot
	if err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	if err := writePcap(f, tr); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// writePcap writes the datagrams as Ethernet frames. As the server does not see frames, it makes up a MAC for itself.
func writePcap(w io.Writer, tr hosts.Trace) error {
	out := pcapgo.NewWriterNanos(w)
	if err := out.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}

	for _, p := range tr.Packets {
		if len(p.Data) == 0 {
			continue
		}
		frame, err := ethernet(tr.MAC, p)
		if err == nil {
			err = out.WritePacket(gopacket.CaptureInfo{Timestamp: p.Time, CaptureLength: len(frame), Length: len(frame)}, frame)
		}
		if err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}

	return nil
}

// ethernet returns the Ethernet frame for a datagram.
func ethernet(mac string, p hosts.Packet) ([]byte, error) {
	machine, err := net.ParseMAC(mac)
	if err != nil {
		return nil, err
	}

	eth := &layers.Ethernet{
		SrcMAC:       machine,
		DstMAC:       net.HardwareAddr{2, 0, 0, 0, 0, 1},
		EthernetType: layers.EthernetTypeIPv4,
	}
	if p.Sent {
		eth.SrcMAC, eth.DstMAC = eth.DstMAC, eth.SrcMAC
	}
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if p.To.Addr() == broadcast || p.From.Addr().IsUnspecified() {
		eth.DstMAC = layers.EthernetBroadcast
	}
	to := p.To.Addr()
	if !p.Sent && p.From.Addr().IsUnspecified() {
		to = broadcast // it was a broadcast, which the server received
	}
	ip := &layers.IPv4{
		Version:  4,
		TTL:      64,
		Protocol: layers.IPProtocolUDP,
		SrcIP:    p.From.Addr().AsSlice(),
		DstIP:    to.AsSlice(),
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(p.From.Port()), DstPort: layers.UDPPort(p.To.Port())}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}

	b := gopacket.NewSerializeBuffer()
	err = gopacket.SerializeLayers(b, gopacket.SerializeOptions{
		FixLengths:       true,
		ComputeChecksums: true,
	}, eth, ip, udp, gopacket.Payload(p.Data))
	return b.Bytes(), err
}
