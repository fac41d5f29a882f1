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

//go:embed probe.sh
var probe string

// ProbePaths says which paths on which btrfs devices a probe looks for, by device.
type ProbePaths map[string][]string

// Probe returns the command that prints, as root on the machine, what its disks are. It
// changes nothing, but for the mounts that looking into a btrfs takes. [ReadProbe] reads
// what it prints.
func Probe(look ProbePaths) []string {
	argv := []string{"sh", "-c", probe, "probe"}
	for _, device := range slices.Sorted(maps.Keys(look)) {
		argv = append(append(append(argv, device), look[device]...), "")
	}
	return argv
}

// ReadProbe makes the JSON that [ParseFacts] reads of what [Probe] printed. lsblk's part
// stays as it is, as people like to look at it. An answer of a tool that is not understood
// is an error that shows it: a guess could cost a disk.
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

// allLookedAt returns an error if lsblk shows a device as empty at which blkid did not look: it is not known to be.
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

// readProbe reads what probe.sh printed: names and outputs in turn, "lsblk" first, "end" last.
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

// Answered returns an error if the facts do not say what is at all the paths that were asked for.
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

// notUnderstood shows the beginning of an answer that is not what its tool prints.
func notUnderstood(tool, text string) error {
	const most = 300
	shown := strings.TrimSpace(text)
	if len(shown) > most {
		shown = strings.ToValidUTF8(shown[:most], "") + " …"
	}
	return fmt.Errorf("%s printed what is not understood: %q; run it on the machine and look", tool, shown)
}

// readObject reads the JSON object that a tool printed. Lines before and after it are somebody
// else's, such as a library's warning, and do not count.
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

// section adds what one tool printed.
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

// rows are the lines of a table, split at tabs.
func rows(text string) (all [][]string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return all
}

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

// readSwaps reads /proc/swaps (proc(5)): a head line; then a line each, whose first field is the name and the last the
// priority.
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

// volumeReport is what pvs and lvs report.
type volumeReport struct {
	PV []PhysicalVolume
	LV []LogicalVolume
}

func readVolumes(tool, text string) (volumeReport, error) {
	if text == "" { // LVM is not there
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

// poolName is what zpool takes for a name. (zpoolconcepts(7))
var poolName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]*$`)

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

// readSignatures reads what blkid --output export prints below the name of each device.
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

		// blkid escapes what a shell would not take as it is.
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

var blkidKey = regexp.MustCompile(`^[A-Z_0-9]+$`)

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
