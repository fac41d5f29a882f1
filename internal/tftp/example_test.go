package tftp_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"

	"provision/internal/tftp"
)

// A server of one file, and a client that reads it in one block. Firmware does the same, on port 69.
func ExampleServer() {
	const hello = "hello from the network\n"
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		fmt.Println(err)
		return
	}
	address := conn.LocalAddr().(*net.UDPAddr)

	server := &tftp.Server{
		MTU: func() int { return 1500 },
		Open: func(name string, client netip.AddrPort) (tftp.File, error) {
			if name != "hello.txt" {
				return tftp.File{}, tftp.ErrNotFound
			}
			return tftp.File{
				Content:  io.NopCloser(strings.NewReader(hello)),
				Size:     int64(len(hello)),
				InMemory: true,
			}, nil
		},
		Completed: func(c tftp.Completed) { fmt.Println("sent blocks:", c.Blocks) },
		Log:       slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Run(ctx, conn) }()

	data, err := readBlock(address, "hello.txt")
	fmt.Printf("%q %v\n", data, err)
	_, err = readBlock(address, "other.txt")
	fmt.Println("refused:", err)

	cancel()
	fmt.Println("stopped:", <-stopped)
	// Unordered output:
	// "hello from the network\n" <nil>
	// sent blocks: 1
	// refused: file not found
	// stopped: <nil>
}

// readBlock asks for a file of less than 512 bytes, which is one block, and acknowledges it.
func readBlock(server *net.UDPAddr, name string) (string, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: server.IP})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("\x00\x01"+name+"\x00octet\x00"), server); err != nil { // RRQ
		return "", err
	}

	packet := make([]byte, 4+512)
	n, transfer, err := conn.ReadFrom(packet) // from the transfer's own port
	if err != nil {
		return "", err
	}
	content := string(packet[4:n])
	if packet[1] == 5 { // ERROR
		return "", fmt.Errorf("%s", strings.TrimRight(content, "\x00"))
	}
	_, err = conn.WriteTo([]byte{0, 4, 0, 1}, transfer) // ACK of block 1
	return content, err
}
