package pxe

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/internal/tftp"
)

// tokens are left out of what people read: while it lives, a token is a key.
var tokens = regexp.MustCompile(`[0-9a-f]{32}`)

// untold is a file's name as it may be told: short, without its token, and bytes that are not printable ASCII as \xff.
func untold(name string) string {
	name = tokens.ReplaceAllString(name, "…")
	quoted := strconv.QuoteToASCII(name[:min(len(name), 96)])
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\u2026`, "…")
}

// traceRequest keeps a DHCP request, and what it says about how far its sender
// came.
func (e *exchange) traceRequest(from netip.AddrPort, port uint16, raw []byte) {
	text := fmt.Sprintf("%s from %s", messageWords(e.request), e.client)
	if a := requested(e.request); a.IsValid() {
		text += ", address " + a.String()
	}
	if via := agentOf(e.request); via.addr.IsValid() {
		text += ", " + via.String()
	}
	discover := e.request.MessageType() == dhcpv4.MessageTypeDiscover
	if discover && e.client.profile().loads != nothing {
		e.Traces.Restart(e.client.MAC)
	}
	if discover && e.client.profile().loads == script {
		e.ladders.note(e.client.MAC, func(cl *climb) { cl.ipxe = true })
	}
	p := hosts.Packet{From: from, To: netip.AddrPortFrom(e.link.self, port), Text: text, Data: raw}
	e.Traces.Add(e.client.MAC, p, func(tr *hosts.Trace) {
		if e.client.profile().loads == nothing {
			return // what is booted by now asks too
		}
		e.client.describe(tr, e.host)
		switch {
		case discover && e.client.profile().loads == script:
			tr.Stage = hosts.StageIPXE
		case discover:
			tr.Stage = hosts.StageAsked
			tr.Rounds++
		case port == 4011:
			tr.Stage = hosts.StageBINL
		case e.request.MessageType() == dhcpv4.MessageTypeRequest && e.client.profile().loads != script:
			tr.Stage = hosts.StageAddress
		}
	})
}

// messageWords is a message's type.
func messageWords(m *dhcpv4.DHCPv4) string {
	if m.MessageType() == dhcpv4.MessageTypeNone {
		return "BOOTP " + m.OpCode.String()
	}
	return "DHCP" + m.MessageType().String()
}

// describe puts who asks into a trace.
func (c bootClient) describe(tr *hosts.Trace, h *hosts.Host) {
	tr.Client = c.String()
	tr.Arch = c.processor()
	tr.Why = ""
	if h != nil {
		tr.Host = h.Name
	}
}

// traceClient is for those whose DHCP packets are not ours to see.
func (s *Server) traceClient(c bootClient, h hosts.Host) {
	s.Traces.Note(c.MAC, func(tr *hosts.Trace) { c.describe(tr, &h) })
}

func (e *exchange) traceReply(to netip.AddrPort, port uint16, r *dhcpv4.DHCPv4) {
	text := messageWords(r)
	if a := addrOf(r.YourIPAddr); a.IsValid() {
		text += " " + a.String()
	}
	if file := cmp.Or(r.BootFileNameOption(), r.BootFileName); file != "" {
		text += ", file " + tokens.ReplaceAllString(file, "…")
	}
	p := hosts.Packet{From: netip.AddrPortFrom(e.link.self, port), To: to, Sent: true, Text: text, Data: r.ToBytes()}
	e.Traces.Add(e.client.MAC, p, nil)
}

// traceFailure keeps an error for which a machine is given nothing to boot, and what helps.
func (s *Server) traceFailure(mac string, err error, help string) {
	s.traceRefusal(mac, strings.ReplaceAll(err.Error(), ": ", ", ")+": "+help)
}

// traceRefusal keeps why a machine is given nothing to boot, and after ": " what helps.
func (s *Server) traceRefusal(mac, why string) {
	s.Traces.Note(mac, func(tr *hosts.Trace) { tr.Stage, tr.Why = hosts.StageRefused, why })
}

// reached keeps how far a machine came.
func (s *Server) reached(mac string, stage hosts.Stage) {
	s.Traces.Note(mac, func(tr *hosts.Trace) {
		tr.Stage = stage
		tr.Rounds = 0
		tr.Missing = ""
		tr.Last = s.Now()
	})
}

// traceMissing keeps the name of a file that a machine asked for and that there is not.
func (s *Server) traceMissing(mac, name string) {
	s.Traces.Note(mac, func(tr *hosts.Trace) { tr.Missing = untold(name) })
}

// traceHTTP keeps a request for a file of a boot.
func (s *Server) traceHTTP(l *servedLink, client netip.AddrPort, mac, method, name string) {
	to := netip.AddrPortFrom(l.self, uint16(s.HTTPPort))
	s.Traces.Add(mac, hosts.Packet{From: client, To: to, Text: "HTTP " + method + " " + untold(name)}, nil)
}

// traceTFTP keeps what was said on the TFTP port, for the machine whose boot the file belongs to.
func (s *Server) traceTFTP(l *servedLink, e tftp.Event) {
	mac := l.neighbour(e.Client.Addr())
	if mac == "" {
		return
	}
	text := e.Text
	if text == "" {
		text = describeTFTP(e.Packet)
	}
	p := hosts.Packet{
		From: e.Client,
		To:   netip.AddrPortFrom(l.self, 69),
		Sent: e.Sent,
		Text: "TFTP " + text,
		Data: e.Packet,
	}
	if e.Sent {
		p.From, p.To = p.To, p.From
	}
	s.Traces.Add(mac, p, nil)
}

// describeTFTP says in words what a request or an ERROR packet says.
func describeTFTP(packet []byte) string {
	if r, ok := tftp.ParseRequest(packet); ok {
		return describeRequest(r)
	}
	if len(packet) > 4 {
		return "refused: " + strings.TrimRight(string(packet[4:]), "\x00")
	}
	return "nothing"
}

func describeRequest(r tftp.Request) string {
	verb := "asks for "
	if r.Write {
		verb = "wants to write "
	}
	text := verb + untold(r.Name)
	if r.Tsize {
		text += ", and its size"
	}
	if r.Blksize > 0 {
		text += fmt.Sprintf(", in blocks of %d", r.Blksize)
	}
	if r.Window > 0 {
		text += fmt.Sprintf(", %d at a time", r.Window)
	}
	return text
}

// enoughBlocks is how many blocks a transfer needs to tell how long one of them takes. In a shorter one, what happens
// once (opening the file, asking for the size) counts for too much.
const enoughBlocks = 64

// traceBlocks keeps how long a block of TFTP took with a machine.
func (s *Server) traceBlocks(mac string, t tftp.Completed) {
	if t.Blocks < enoughBlocks {
		return
	}
	s.Traces.Note(mac, func(tr *hosts.Trace) {
		tr.Block = t.Took / time.Duration(t.Blocks)
		tr.Blksize = int(t.Blksize)
	})
}
