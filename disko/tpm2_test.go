package disko

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTPM2(t *testing.T) {
	p, err := NewPlan(mustParse(t, readFile(t, "layouts/luks-options.json")), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.TPM2()
	var got []string
	for _, c := range all {
		s := c.Enroll("0+7")
		if !slices.Equal(s.Argv[:4], []string{"bash", "-c", tpm2Script, "tpm2"}) || s.Device != c.Device || s.Name != "make the TPM open "+c.Name || s.Destructive() {
			t.Errorf("%+v", s)
		}
		got = append(got, fmt.Sprintf("%s, tried: %v: %q <%s", c.Name, c.Tries, s.Argv[4:], s.Stdin))
	}
	const disk = "/dev/disk/by-partlabel/disk-main-"
	equalLines(t, "containers", got, []string{
		`asked, tried: false: ["` + disk + `a" "0+7" "" "0" "0"] </run/provision/passphrase/asked`,
		`keyed, tried: true: ["` + disk + `b" "0+7" "/tmp/raw key.bin" "12" "4096"] <`,
		`old, tried: false: ["` + disk + `c" "0+7" "/tmp/old.key" "0" "0"] <`,
		`headed, tried: false: ["` + disk + `head" "0+7" "" "0" "0"] </tmp/pass`,
		`outer, tried: false: ["` + disk + `e" "0+7" "" "0" "0"] </tmp/pass`,
		`twice, tried: false: ["/dev/inner/crypt" "0+7" "" "0" "0"] </tmp/pass`,
	})
	if err != nil {
		t.Error(err)
	}
}

// TestTPM2Refused: LUKS1 is found in the layout and on the machine.
func TestTPM2Refused(t *testing.T) {
	const at = "disk.main.content.partitions.luks.content"
	kept := func(version string) *Facts {
		disk := dev("vdb", "disk", `,"pttype":"gpt"`,
			dev("vdb1", "part", `,"start":2048,"size":524288000,"partlabel":"disk-main-ESP","parttype":"c12a7328-f81f-11d2-ba4b-00a0c93ec93b","fstype":"vfat"`),
			dev("vdb2", "part", `,"start":1026048,"size":8064598528,"parttype":"0fc63daf-8483-4772-8e79-3d69d8477de4","partlabel":"disk-main-luks","fstype":"crypto_LUKS","fsver":"`+version+`"`))
		return mustFacts(t, strings.TrimSuffix(machine(disk), "}")+`,"mounts":[]}`)
	}
	for name, c := range map[string]struct {
		layout  string
		changes map[string]any
		facts   *Facts
		way     Mode
		want    string
	}{
		"LUKS1":         {"luks", map[string]any{at + ".extraFormatArgs": []any{"--type luks1"}}, nil, Fresh, "disk.main.content.partitions.luks: crypted is LUKS1, which has no place for a TPM; make it LUKS2"},
		"LUKS1, joined": {"luks", map[string]any{at + ".extraFormatArgs": []any{"--type=luks1"}}, nil, Fresh, "crypted is LUKS1"},
		"LUKS2":         {"luks", map[string]any{at + ".extraFormatArgs": []any{"--type luks2"}}, nil, Fresh, ""},
		"kept LUKS1":    {"luks", nil, kept("1"), Mount, "crypted is LUKS1"},
		"kept LUKS2":    {"luks", map[string]any{at + ".extraFormatArgs": []any{"--type luks1"}}, kept("2"), Mount, ""},
		"erased LUKS1":  {"luks", nil, kept("1"), Fresh, ""},
		"no LUKS":       {"efi", nil, nil, Fresh, "the layout has no LUKS container for a TPM to open"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/"+c.layout+".json"), c.changes)), c.facts, Options{Mode: c.way})
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.TPM2()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
