package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func itoa(n int64) string { return fmt.Sprint(n) }

func describe(s *static) string {
	if s == nil {
		return "<nil>"
	}
	return fmt.Sprintf("&{%s %s %s}", s.addr, s.gateway, s.device)
}

func TestModules(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{
		"dep": "virtio_net: virtio virtio_ring net_failover\nvirtio_ring:\nvirtio:\nnet_failover: failover\nfailover:\n" +
			"smsc95xx: usbnet\nusbnet:\nbroken:\nneeds_broken: broken\n",
		"alias": "alias virtio:d00000001v* virtio_net\nalias usb:v0424p[EF]C00d*dc*ic*in* smsc95xx\nalias of:NethernetT*Cbrcm,bcm2711-genet-v5C* needs_broken\n" +
			"alias mdio:0000000000000111?1000000110?00?? realtek\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ device, loads, err string }{
		{"virtio:d00000001v00001AF4", "virtio virtio_ring net_failover virtio_net", ""},
		{"virtio:d00000002v00001AF4", "", ""},
		{"virtio-net", "virtio virtio_ring net_failover virtio_net", ""},
		{"usb:v0424pEC00d0200dcFFdsc00dp01icFFiscFFip00in00", "usbnet smsc95xx macaddr=b8:27:eb:00:00:01 turbo_mode=N", ""},
		{"of:NethernetT(null)Cbrcm,bcm2711-genet-v5Cx", "broken", "load the driver broken: exec format error"},
		{"mdio:00000000000001110100000011000000", "", ""}, // of a module that is not packed
		{"virtio_ring", "virtio_ring", ""},                // that is there already
		{"nothing", "", ""},
	} {
		m, err := readModules(dir, "console=ttyS0 smsc95xx.macaddr=b8:27:eb:00:00:01 smsc95xx.turbo_mode=N dwc_otg.lpm_enable=0")
		if err != nil {
			t.Fatal(err)
		}
		var loads []string
		m.load = func(file, options string) error {
			name := strings.TrimSuffix(filepath.Base(file), ".ko")
			loads = append(loads, strings.TrimSpace(name+" "+options))
			switch name {
			case "broken":
				return unix.ENOEXEC
			case "virtio_ring":
				return unix.EEXIST
			}
			return nil
		}
		for range 2 { // no module is loaded again, nor tried again
			err = errors.Join(err, m.loadFor(test.device))
		}
		if got := strings.Join(loads, " "); got != test.loads {
			t.Errorf("%s: loaded %q, want %q", test.device, got, test.loads)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: error %v, want %q", test.device, err, test.err)
		}
	}
}
