package confirm

import (
	"fmt"
	"strings"
	"testing"

	"provision/disko"
	"provision/hosts"
)

// layout takes a disk, with or without erasing it.
func layout(t *testing.T, device string, destroy bool) *disko.Layout {
	t.Helper()
	const text = `{"disk":{"main":{"type":"disk","device":%q,"destroy":%t,"content":{"type":"gpt","device":%q,"efiGptPartitionFirst":true,"partitions":
{"root":{"name":"root","label":"root","size":"100%%","device":"/dev/disk/by-partlabel/root","start":"0","end":"-0","type":"8300","priority":1,
"content":{"type":"filesystem","format":"ext4","device":"/dev/disk/by-partlabel/root","mountpoint":"/"}}}}}}}`
	l, err := disko.Parse(fmt.Appendf(nil, text, device, destroy, device))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const (
	one     = `{"name":"NAME","path":"/dev/NAME","type":"disk","size":8589934592,"model":"M","serial":"ONE"CHILDREN}`
	two     = `{"name":"NAME","path":"/dev/NAME","type":"disk","size":8589934592,"model":"M","serial":"TWO"CHILDREN}`
	windows = `,"children":[{"name":"NAME1","path":"/dev/NAME1","type":"part","size":1073741824,"fstype":"ntfs","label":"LABEL"}]`
)

func machine(t *testing.T, disks ...string) *disko.Facts {
	t.Helper()
	f, err := disko.ParseFacts([]byte(`{"mounts":[],"links":{},"blockdevices":[` + strings.Join(disks, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func disk(text, name, children string) string {
	return strings.NewReplacer("CHILDREN", strings.ReplaceAll(children, "NAME", name), "NAME", name).Replace(text)
}

// TestDigest: two plans have one digest if they take and destroy the same, whatever the disks are called and whatever
// the words for people are.
func TestDigest(t *testing.T) {
	digest := func(l *disko.Layout, f *disko.Facts, o hosts.Choices) string {
		t.Helper()
		p, err := disko.NewPlan(l, f, Options(o, "script"))
		if err != nil {
			t.Fatal(err)
		}
		return Of(p, o.Wipe).Digest
	}
	bySerial := hosts.Choices{Disks: map[string]string{"main": "serial:ONE"}}
	before := digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", windows)), hosts.Choices{})
	for name, got := range map[string]string{
		"again":               digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", windows)), hosts.Choices{}),
		"under another name":  digest(layout(t, "/dev/sdb", true), machine(t, disk(one, "sdb", windows)), hosts.Choices{}),
		"by its serial":       digest(layout(t, "/dev/sda", true), machine(t, disk(two, "sda", ""), disk(one, "sdaa", windows)), bySerial),
		"with another label":  digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", strings.ReplaceAll(windows, "LABEL", "x"))), hosts.Choices{}),
		"beside another disk": digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", windows), disk(two, "sdb", "")), hosts.Choices{}),
	} {
		if got != before {
			t.Errorf("%s, the digest is another", name)
		}
	}
	for name, got := range map[string]string{
		"another disk":       digest(layout(t, "/dev/sda", true), machine(t, disk(two, "sda", windows)), hosts.Choices{}),
		"another size":       digest(layout(t, "/dev/sda", true), machine(t, strings.Replace(disk(one, "sda", windows), "8589934592", "9589934592", 1)), hosts.Choices{}),
		"one step more":      digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", "")), hosts.Choices{}),
		"nothing is erased":  digest(layout(t, "/dev/sda", false), machine(t, disk(one, "sda", "")), hosts.Choices{}),
		"by disko's script":  digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", windows)), hosts.Choices{Disko: hosts.Script}),
		"with --wipe":        digest(layout(t, "/dev/sda", true), machine(t, disk(one, "sda", windows)), hosts.Choices{Wipe: []string{"ONE"}}),
		"nothing is known":   digest(layout(t, "/dev/sda", true), nil, hosts.Choices{}),
		"unknown, elsewhere": digest(layout(t, "/dev/sdb", true), nil, hosts.Choices{}),
	} {
		if got == before {
			t.Errorf("%s, and the digest is the same", name)
		}
	}
	if digest(layout(t, "/dev/sda", true), nil, hosts.Choices{}) == digest(layout(t, "/dev/sdb", true), nil, hosts.Choices{}) {
		t.Error("of a machine that was not seen, two disks have one digest")
	}
}

// TestOf: what is confirmed of a machine that was seen are its disks, and of another the names.
func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		facts *disko.Facts
		want  hosts.Taken
	}{
		"seen": {machine(t, disk(one, "sda", windows)),
			hosts.Taken{Disk: hosts.Disk{Device: "/dev/sda", Model: "M", Serial: "ONE", Size: 8 << 30, Wipe: true}, Name: "main", Named: "serial:ONE", Erased: true}},
		"not seen": {nil, hosts.Taken{Disk: hosts.Disk{Device: "serial:ONE"}, Name: "main", Named: "serial:ONE", Erased: true}},
	} {
		p, err := disko.NewPlan(layout(t, "/dev/sdz", true), c.facts, disko.Options{Disks: map[string]string{"main": "serial:ONE"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := Of(p, []string{"ONE"}); len(got.Disks) != 1 || got.Disks[0] != c.want {
			t.Errorf("%s: %+v", name, got.Disks)
		}
	}
}
