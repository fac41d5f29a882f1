package disko

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

//go:embed probe.sh
var probe string

// Look says which paths on which btrfs devices a probe looks for, by device.
type Look map[string][]string

// Probe returns the command that prints, as root on the machine, what its disks are. It
// changes nothing, but for the mounts that looking into a btrfs takes. [ReadProbe] reads
// what it prints.
func Probe(look Look) []string {
	argv := []string{"sh", "-c", probe, "probe"}
	for _, device := range slices.Sorted(maps.Keys(look)) {
		argv = append(append(append(argv, device), look[device]...), "")
	}
	return argv
}

// ReadProbe makes the JSON that [ParseFacts] reads of what [Probe] printed. lsblk's part
// stays as it is, as people like to look at it.
func ReadProbe(out []byte) ([]byte, error) {
	facts := map[string]any{}
	words := strings.Split(string(out), "\x00")
	if len(words) < 2 || words[0] != "lsblk" || json.Unmarshal([]byte(words[1]), &facts) != nil {
		return nil, errors.New("list the machine's disks: lsblk printed no JSON")
	}
	inside := map[string]map[string]string{}
	for words = words[2:]; len(words) >= 2; {
		name, text := words[0], words[1]
		words = words[2:]
		if name != "inside" {
			if err := section(facts, name, text); err != nil {
				return nil, fmt.Errorf("list the machine's disks: %w", err)
			}
			continue
		}
		found := map[string]string{}
		for ; len(words) >= 2 && words[0] != ""; words = words[2:] {
			found[words[0]] = words[1]
		}
		inside[text], words = found, words[min(1, len(words)):]
	}
	facts["inside"] = inside
	return json.Marshal(facts)
}

// section adds what one tool printed.
func section(facts map[string]any, name, text string) error {
	var rows [][]string
	for line := range strings.Lines(text) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	switch name {
	case "links":
		links := map[string]string{}
		for _, row := range rows {
			if len(row) == 2 {
				links[row[0]] = absolute(path.Dir(row[0]), row[1])
			}
		}
		facts[name] = links
	case "mounts":
		var found struct{ Filesystems []MountedAt }
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			return fmt.Errorf("findmnt printed no JSON: %w", err)
		}
		facts[name] = found.Filesystems
	case "swaps":
		swaps := []string{}
		for i, row := range rows { // proc(5): a head line; the first field is the name
			if name, _, _ := strings.Cut(row[0], " "); i > 0 {
				swaps = append(swaps, unescape(name))
			}
		}
		facts[name] = swaps
	case "pvs", "lvs":
		var found struct {
			Report []struct {
				PV []PhysicalVolume
				LV []LogicalVolume
			}
		}
		if text == "" { // LVM is not there
			return nil
		}
		if err := json.Unmarshal([]byte(text), &found); err != nil || len(found.Report) != 1 {
			return fmt.Errorf("%s printed no report: %w", name, err)
		}
		facts[name] = found.Report[0].PV
		if name == "lvs" {
			facts[name] = found.Report[0].LV
		}
	case "pools":
		pools := []string{}
		for _, row := range rows {
			pools = append(pools, row[0])
		}
		facts[name] = pools
	case "signatures":
		facts[name] = readSignatures(text)
	case "datasets":
		datasets := []Dataset{}
		for _, row := range rows {
			if len(row) == 4 {
				datasets = append(datasets, Dataset{row[0], row[1], row[2], row[3] == "unavailable"})
			}
		}
		facts[name] = datasets
	}
	return nil
}

// readSignatures reads what blkid --output export prints below the name of each device.
func readSignatures(text string) map[string]Signature {
	found, device := map[string]Signature{}, ""
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			device = key
			continue
		}
		s := found[device]
		// blkid escapes what a shell would not take as it is.
		switch value = strings.ReplaceAll(value, `\`, ""); key {
		case "TYPE":
			s.Type = value
		case "UUID":
			s.UUID = value
		case "LABEL":
			s.Label = value
		}
		if s != (Signature{}) {
			found[device] = s
		}
	}
	return found
}

// absolute resolves the target of a link in a folder.
func absolute(dir, to string) string {
	if path.IsAbs(to) {
		return to
	}
	return path.Join(dir, to)
}

// unescape reads a name of /proc/swaps, where blanks and backslashes are octal.
func unescape(name string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(name)
}
