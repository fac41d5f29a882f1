// Package dnsmasq runs a real dnsmasq as DHCP, ProxyDHCP and TFTP server, with the recipes that people use.
package dnsmasq

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Server is a running dnsmasq.
type Server struct {
	cmd   *exec.Cmd
	ready chan struct{} // closed when it serves
	ended chan struct{} // closed when it has ended

	mu  sync.Mutex
	log strings.Builder
}

// Start runs dnsmasq on an interface of the process's namespace, with folder as TFTP root; its files are kept in dir.
// It serves when Start returns, and ends with ctx or with Close.
func Start(ctx context.Context, iface, folder, dir string, args ...string) (*Server, error) {
	s := &Server{ready: make(chan struct{}), ended: make(chan struct{})}
	s.cmd = exec.CommandContext(ctx, "dnsmasq", append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--port=0", "--interface=" + iface, "--bind-interfaces", "--no-ping", "--log-dhcp", "--log-facility=-", "--pid-file=",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--enable-tftp", "--tftp-root=" + folder}, args...)...)
	s.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	go func() {
		defer close(s.ended)
		serves := sync.OnceFunc(func() { close(s.ready) })
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.mu.Lock()
			fmt.Fprintln(&s.log, lines.Text())
			s.mu.Unlock()
			if strings.Contains(lines.Text(), "TFTP root is") { // the last thing it says before it serves
				serves()
			}
		}
		_ = s.cmd.Wait() // it is told to end
	}()
	select {
	case <-s.ready:
		return s, nil
	case <-s.ended:
		return nil, fmt.Errorf("dnsmasq ended at once: %s", s.Log())
	}
}

// Close ends it.
func (s *Server) Close() {
	_ = s.cmd.Process.Signal(unix.SIGTERM) // it may have ended with the context
	<-s.ended
}

// Log is what it printed.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Pid is its process, for measurements.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Full is the usual recipe for the LAN's DHCP server: a program for each architecture, and a script for iPXE, by HTTP
// from the server's address.
func Full(first, last, server netip.Addr) []string {
	url := "http://" + server.String()
	return append(userClasses(),
		fmt.Sprintf("--dhcp-range=%s,%s,1h", first, last), "--dhcp-authoritative",
		"--dhcp-match=set:bios,option:client-arch,0", "--dhcp-match=set:x64,option:client-arch,7",
		"--dhcp-match=set:x64,option:client-arch,9", "--dhcp-match=set:arm64,option:client-arch,11",
		"--dhcp-match=set:x64http,option:client-arch,16", "--dhcp-match=set:arm64http,option:client-arch,19",
		"--dhcp-boot=tag:ipxe,"+url+"/boot.ipxe",
		"--dhcp-boot=tag:!ipxe,tag:bios,undionly.kpxe", "--dhcp-boot=tag:!ipxe,tag:x64,ipxe.efi",
		"--dhcp-boot=tag:!ipxe,tag:arm64,ipxe-arm64.efi",
		"--dhcp-boot=tag:x64http,"+url+"/ipxe.efi", "--dhcp-option=tag:x64http,60,HTTPClient",
		"--dhcp-boot=tag:arm64http,"+url+"/ipxe.efi", "--dhcp-option=tag:arm64http,60,HTTPClient")
}

// Proxy is the usual recipe for a dnsmasq beside another DHCP server.
func Proxy(network, server netip.Addr) []string {
	return append(userClasses(),
		fmt.Sprintf("--dhcp-range=%s,proxy", network),
		"--dhcp-boot=tag:ipxe,http://"+server.String()+"/boot.ipxe",
		"--pxe-service=tag:!ipxe,x86PC,lab,undionly.kpxe", "--pxe-service=tag:!ipxe,x86-64_EFI,lab,ipxe.efi",
		"--pxe-service=tag:!ipxe,BC_EFI,lab,ipxe.efi", "--pxe-service=tag:!ipxe,ARM64_EFI,lab,ipxe-arm64.efi")
}

func userClasses() []string {
	return []string{"--dhcp-userclass=set:ipxe,iPXE", "--dhcp-userclass=set:ipxe,Tinkerbell"}
}
