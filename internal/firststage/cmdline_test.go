package main

import (
	"strings"
	"testing"
)

const digest = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"

func TestParseOrder(t *testing.T) {
	good := "provision.initrd=http://10.0.0.1:8080/boot/abc/initrd provision.sha256=100:" + digest + ",7:" + digest
	for _, test := range []struct{ cmdline, want, err string }{
		{good, "10.0.0.1:8080 100 7 /init  <nil>", ""},
		{"console=ttyS0 " + strings.Replace(good, ":8080", "", 1) + " rdinit=/first BOOTIF=01-52-54-00-12-34-56\n", "10.0.0.1:80 100 7 /first 52:54:00:12:34:56 <nil>", ""},
		{good + " ip=10.0.0.9::10.0.0.254:255.255.255.0::eth1:off", "10.0.0.1:8080 100 7 /init  &{10.0.0.9/24 10.0.0.254 eth1}", ""},
		{good + " ip=10.0.0.9", "10.0.0.1:8080 100 7 /init  &{10.0.0.9/8 invalid IP }", ""},
		{good + " ip=dhcp", "10.0.0.1:8080 100 7 /init  <nil>", ""},
		{good + ` dyndbg="a provision.initrd=x b"`, "10.0.0.1:8080 100 7 /init  <nil>", ""},
		{"quiet", "", "boot from provision again"},
		{"provision.initrd=http://10.0.0.1/x", "", "boot from provision again"},
		{strings.Replace(good, "10.0.0.1", "server", 1), "", "no name to look up"},
		{strings.Replace(good, "http:", "https:", 1), "", "http://ADDRESS"},
		{strings.Replace(good, ":8080", ":99999", 1), "", "out of range"},
		{good[:len(good)-2], "", "cut off"},
		{strings.Replace(good, "100:", "-1:", 1), "", "cut off"},
	} {
		o, err := parseOrder(test.cmdline)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %q", test.cmdline, err, test.err)
			}
			continue
		}
		got := ""
		if err == nil {
			got = strings.Join([]string{o.server.String(), itoa(o.image.size), itoa(o.boot.size), o.init, o.bootIf, describe(o.static)}, " ")
		}
		if got != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.cmdline, got, err, test.want)
		}
	}
}
