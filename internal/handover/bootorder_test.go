package handover

import (
	"encoding/hex"
	"fmt"
	"maps"
	"testing"
)

// TestNewSystem: which entry is the new system's, and which order has it first. Boot0000 to Boot0005 are the
// firmware's entries, Boot0006 is the boot loader's.
func TestNewSystem(t *testing.T) {
	after := captured(t, "ovmf-installed.txt")
	before := maps.Clone(after)
	const (
		esp, other = "5ef95aa8-1c27-41d6-b76a-7d09f2c56dd2", "00000000-1111-4222-8333-444444444444"
		linux      = "Boot0006"
	)
	delete(before, linux+"-"+globalGUID)
	ordered := func(variables map[string][]byte, numbers ...byte) map[string][]byte {
		value := []byte{7, 0, 0, 0}
		for _, n := range numbers {
			value = append(value, n, 0)
		}
		variables = maps.Clone(variables)
		variables["BootOrder-"+globalGUID] = value
		return variables
	}
	const first = `\007\000\000\000\006\000\002\000\001\000`
	for _, tt := range []struct {
		name          string
		before, after map[string][]byte
		esp           string // of the new system; "": none
		entry, order  string
	}{
		{"made, and put last", before, ordered(after, 2, 1, 6), esp, linux, first},
		{"made, and in no order", before, ordered(after, 2, 1), esp, linux, first},
		{"made, and put first", before, ordered(after, 6, 2, 1), esp, linux, ""},
		{"was there, and was put first", ordered(after, 2, 1, 6), ordered(after, 6, 2, 1), esp, linux, ""},
		{"was there, and is another system's on the same ESP", ordered(after, 2, 1, 6), ordered(after, 2, 1, 6), esp, "", ""},
		{"made for another disk", before, ordered(after, 2, 1, 6), other, "", ""},
		{"none was made", before, ordered(before, 2, 1), esp, "", ""},
		{"there is no ESP", before, ordered(after, 6, 2, 1), "", "", ""},
		{"BIOS", nil, nil, esp, "", ""},
	} {
		was, err := ParseBoots(listed(tt.before, ""))
		check(t, err)
		now, err := ParseBoots(listed(tt.after, tt.esp))
		check(t, err)
		entry, label := now.NewSystem(was)
		if entry != tt.entry || (label == "Linux Boot Manager") != (entry != "") || now.UEFI() != (tt.after != nil) {
			t.Errorf("%s: the new system's entry is %q, %q, want %q", tt.name, entry, label, tt.entry)
		}
		if entry == "" {
			continue
		}
		if order, err := now.First(entry); err != nil || order != tt.order {
			t.Errorf("%s: the order is %s, %v, want %s", tt.name, order, err, tt.order)
		}
	}
}

// listed is what ListBoot prints.
func listed(variables map[string][]byte, esp string) (printed string) {
	for name, value := range variables {
		printed += fmt.Sprintf("%s %s\n", name, hex.EncodeToString(value))
	}
	if esp != "" {
		printed += "esp " + esp + "\n"
	}
	return printed
}

func TestParseBootsRefuses(t *testing.T) {
	if _, err := ParseBoots("BootOrder-" + globalGUID + " nonsense"); err == nil {
		t.Error("nonsense is taken")
	}
	if b, err := ParseBoots("BootOrder-" + globalGUID + " "); err != nil || b.UEFI() {
		t.Errorf("of a variable that cannot be read there is %v, %v", b, err)
	}
}

// FuzzParseBoots: whatever a machine says that it boots, the new order has each entry of the old one, and no other first.
func FuzzParseBoots(f *testing.F) {
	for _, name := range []string{"ovmf.txt", "ovmf-installed.txt"} {
		f.Add(listed(captured(f, name), "5ef95aa8-1c27-41d6-b76a-7d09f2c56dd2"))
	}
	f.Fuzz(func(t *testing.T, printed string) {
		b, err := ParseBoots(printed)
		if err != nil {
			return
		}
		entry, _ := b.NewSystem(Boots{})
		if entry == "" {
			return
		}
		order, err := b.First(entry)
		if err != nil {
			t.Fatalf("%s is not an entry: %v", entry, err)
		}
		n, _ := parseBootName(entry)
		now := []uint16{n}
		for _, old := range b.menu().order {
			if old != n {
				now = append(now, old)
			}
		}
		if order != "" && len(order) != 4*(4+2*len(now)) {
			t.Errorf("the order %s has not the entries %x", order, now)
		}
	})
}
