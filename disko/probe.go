package disko

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// probe is the shell script that Probe runs. It is constant.
//
//go:embed probe.sh
var probe string

// ProbePaths holds the paths that a probe looks for on btrfs devices, by device.
type ProbePaths map[string][]string

// Probe returns the command that prints, as root on the machine, the state of its disks. It changes nothing, apart from
// temporary mounts to look into a btrfs. [ReadProbe] reads the output.
func Probe(look ProbePaths) []string {
	argv := []string{"sh", "-c", probe, "probe"}
	for _, device := range slices.Sorted(maps.Keys(look)) {
		argv = append(append(append(argv, device), look[device]...), "")
	}
	return argv
}

// ReadProbe converts the output of [Probe] to the JSON that [ParseFacts] reads. The part of lsblk is kept as it is,
// because people like to look at it. If the output of a tool is not understood, the error shows it: a wrong guess could
// cost the data of a disk.
func ReadProbe(out []byte) ([]byte, error) {
	facts, err := readProbe(strings.Split(string(out), "\x00"))
	var data []byte
	if err == nil {
		data, err = json.Marshal(facts)
	}
	if err == nil {
		err = allLookedAt(data)
	}
	if err != nil {
		return nil, fmt.Errorf("list the machine's disks: %w", err)
	}
	return data, nil
}

// allLookedAt returns an error if lsblk shows a device as empty that blkid did not examine, since it may not be empty.
func allLookedAt(facts []byte) error {
	f, err := ParseFacts(facts)
	if err != nil {
		return err
	}
	for _, n := range f.nodes() {
		if _, ok := f.Signatures["/dev/"+n.KName]; !ok && n.KName != "" && n.FSType == "" && n.Size > 0 {
			return fmt.Errorf("nothing looked at %s, which lsblk shows as empty: see what `blkid --probe /dev/%s` says", n.Name, n.KName)
		}
	}
	return nil
}

// readProbe parses the output of probe.sh: pairs of a name and an output, "lsblk" first and "end" last.
func readProbe(args []string) (map[string]any, error) {
	facts := map[string]any{}
	inside := map[string]map[string]string{}
	next := func() string {
		if len(args) == 0 {
			return ""
		}
		word := args[0]
		args = args[1:]
		return word
	}
	if name := next(); name != "lsblk" {
		return nil, notUnderstood("the probe", name)
	}
	if err := readObject("lsblk", next(), &facts); err != nil {
		return nil, err
	}

	for len(args) > 0 {
		switch name, text := next(), next(); name {
		case "end":
			facts["inside"] = inside
			return facts, nil
		case "inside":
			found := map[string]string{}
			for path := next(); path != ""; path = next() {
				found[path] = next()
			}
			inside[text] = found
		default:
			if err := section(facts, name, text); err != nil {
				return nil, err
			}
		}
	}

	return nil, errors.New("what the machine printed has no end: the probe was cut off")
}

// Answered returns an error if the facts do not say what is at every path that the probe was asked for.
func (look ProbePaths) Answered(f *Facts) error {
	for device, paths := range look {
		for _, path := range paths {
			if _, ok := f.Inside[device][path]; !ok {
				return fmt.Errorf("the machine was asked what is at %s on %s, and did not say", path, device)
			}
		}
	}
	return nil
}

// notUnderstood returns an error that shows the beginning of an output that its tool should not print.
func notUnderstood(tool, text string) error {
	const most = 300
	shown := strings.TrimSpace(text)
	if len(shown) > most {
		shown = strings.ToValidUTF8(shown[:most], "") + " …"
	}
	return fmt.Errorf("%s printed what is not understood: %q; run it on the machine and look", tool, shown)
}

// readObject reads the JSON object that a tool printed. It ignores lines before and after the object, such as a
// library's warnings.
func readObject(tool, text string, to any) error {
	begin := 0
	if !strings.HasPrefix(text, "{") {
		begin = strings.Index(text, "\n{") + 1
	}
	if err := json.NewDecoder(strings.NewReader(text[begin:])).Decode(to); err != nil {
		return notUnderstood(tool, text)
	}
	return nil
}

// section adds the output of one tool to the facts.
func section(facts map[string]any, name, text string) (err error) {
	switch name {
	case "links":
		facts[name], err = readLinks(text)
	case "mounts":
		var found struct{ Filesystems []MountedAt }
		err = readObject("findmnt", text, &found)
		facts[name] = found.Filesystems
	case "swaps":
		facts[name], err = readSwaps(text)
	case "pvs", "lvs":
		var report volumeReport
		report, err = readVolumes(name, text)
		facts[name] = report.PV
		if name == "lvs" {
			facts[name] = report.LV
		}
	case "pools":
		facts[name], err = readPools(text)
	case "signatures":
		facts[name], err = readSignatures(text)
	case "holders":
		facts[name], err = readHolders(text)
	case "datasets":
		facts[name], err = readDatasets(text)
	default:
		err = notUnderstood("the probe", name)
	}

	return err
}

// rows splits a table into lines, and these at tabs.
func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return all
}

// readLinks reads pairs of a link and its target.
func readLinks(text string) (map[string]string, error) {
	links := map[string]string{}
	for _, row := range rows(text) {
		if len(row) != 2 || !path.IsAbs(row[0]) {
			return nil, notUnderstood("find", strings.Join(row, "\t"))
		}
		links[row[0]] = absolute(path.Dir(row[0]), row[1])
	}
	return links, nil
}

// readSwaps reads /proc/swaps (proc(5)): a header line, then one line for each swap area, with its name in the first
// field and its priority in the last.
func readSwaps(text string) ([]string, error) {
	swaps := []string{}
	for i, row := range rows(text) {
		fields := strings.Fields(strings.Join(row, " "))
		if i == 0 && len(fields) > 0 && fields[0] == "Filename" {
			continue
		}
		if i == 0 || len(fields) != 5 {
			return nil, notUnderstood("/proc/swaps", strings.Join(row, "\t"))
		}
		swaps = append(swaps, unescape(fields[0]))
	}
	return swaps, nil
}

// volumeReport is a report of pvs or lvs.
type volumeReport struct {
	PV []PhysicalVolume
	LV []LogicalVolume
}

// readVolumes reads the report of pvs or lvs.
func readVolumes(tool, text string) (volumeReport, error) {
	if text == "" { // LVM is not installed
		return volumeReport{}, nil
	}
	var found struct{ Report []volumeReport }
	if err := readObject(tool, text, &found); err != nil {
		return volumeReport{}, err
	}
	if len(found.Report) != 1 {
		return volumeReport{}, notUnderstood(tool, text)
	}
	return found.Report[0], nil
}

// poolName matches the names that zpool accepts (zpoolconcepts(7)).
var poolName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]*$`)

// readPools reads the names of imported pools, one on each line.
func readPools(text string) ([]string, error) {
	pools := []string{}
	for _, row := range rows(text) {
		if len(row) != 1 || !poolName.MatchString(row[0]) {
			return nil, notUnderstood("zpool list", strings.Join(row, "\t"))
		}
		pools = append(pools, row[0])
	}
	return pools, nil
}

// readHolders reads lines of device, holder, and the holder's device-mapper name.
func readHolders(text string) ([]Holder, error) {
	var holders []Holder
	for _, row := range rows(text) {
		if len(row) != 3 || row[0] == "" || row[1] == "" {
			return nil, notUnderstood("/sys/class/block", strings.Join(row, "\t"))
		}
		holders = append(holders, Holder{row[0], row[1], row[2]})
	}
	return holders, nil
}

// readDatasets reads lines of name, type, volume size and key status.
func readDatasets(text string) ([]Dataset, error) {
	datasets := []Dataset{}
	for _, row := range rows(text) {
		if len(row) != 4 {
			return nil, notUnderstood("zfs list", strings.Join(row, "\t"))
		}
		datasets = append(datasets, Dataset{row[0], row[1], row[2], row[3] == "unavailable"})
	}
	return datasets, nil
}

// readSignatures reads the output of blkid --output export, with the name of each device on the line before it.
func readSignatures(text string) (map[string]Signature, error) {
	found := map[string]Signature{}
	device := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "/dev/") {
			device = line
			found[device] = Signature{}
			continue
		}

		key, value, ok := strings.Cut(line, "=")
		if !ok || device == "" || !blkidKey.MatchString(key) {
			return nil, notUnderstood("blkid", line)
		}
		s := found[device]

		// blkid escapes characters that are special to a shell.
		switch value = strings.ReplaceAll(value, `\`, ""); key {
		case "TYPE":
			s.Type = value
		case "UUID":
			s.UUID = value
		case "LABEL":
			s.Label = value
		}

		found[device] = s
	}

	return found, nil
}

// blkidKey matches the names of blkid's values.
var blkidKey = regexp.MustCompile(`^[A-Z_0-9]+$`)

// absolute returns the target of a link in the folder dir as an absolute path.
func absolute(dir, to string) string {
	if path.IsAbs(to) {
		return to
	}
	return path.Join(dir, to)
}

// unescape decodes a name in /proc/swaps, where blanks and backslashes are octal.
func unescape(name string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(name)
}
