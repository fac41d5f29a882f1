package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeb: the Debian package has program, unit and configuration file where these expect each other, and no other
// owners than root.
func TestDeb(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"provision-linux-amd64", "provision-linux-arm64"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+name+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(dir, "provision.deb")
	run := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", argv, err, out)
		}
		return string(out)
	}
	run("../../packaging/deb", "arm64", "0~202601011200.abc", filepath.Join(dir, "provision-linux-arm64"), deb)

	contents := run("dpkg-deb", "--contents", deb)
	for _, want := range []string{
		"-rwxr-xr-x root/root        37 ", "./usr/bin/provision\n", "./usr/bin/provision-linux-amd64\n",
		"./lib/systemd/system/provision.service\n", "./etc/provision/config.toml\n", "./usr/share/doc/provision/NOTICE\n",
	} {
		if !strings.Contains(contents, want) {
			t.Errorf("the package lacks %q:\n%s", want, contents)
		}
	}
	if strings.Contains(contents, "drwx------") {
		t.Errorf("the package has a folder for root alone:\n%s", contents)
	}
	if strings.Contains(contents, "provision-linux-arm64") {
		t.Errorf("the package has its own program twice:\n%s", contents)
	}
	root := filepath.Join(dir, "root")
	run("dpkg-deb", "--raw-extract", deb, root)
	if got := run(filepath.Join(root, "usr/bin/provision")); got != "provision-linux-arm64\n" {
		t.Errorf("its program is %q", got)
	}
	if got := run("dpkg-deb", "--field", deb, "Architecture", "Version"); got != "Architecture: arm64\nVersion: 0~202601011200.abc\n" {
		t.Errorf("it says %q", got)
	}
	if got := run("dpkg-deb", "--info", deb, "conffiles"); got != "/etc/provision/config.toml\n" {
		t.Errorf("its configuration files are %q", got)
	}
}
