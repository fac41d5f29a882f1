package disko

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// evaluated is what disko.nix prints.
type evaluated struct {
	Create, Mount string // disko's scripts
	Devices       json.RawMessage
}

// TestReleasesByHand plans disko's own examples as each of the releases in $DISKO_TAGS evaluates them, and compares the
// commands with those of that release's own scripts, run with stubs. `make beside TAGS=…` says what it needs.
// BESIDE=write writes testdata/releases/TAG.json, too. The table that it logs is that of docs/disko.md.
func TestReleasesByHand(t *testing.T) {
	tags := strings.Fields(os.Getenv("DISKO_TAGS"))
	if len(tags) == 0 {
		t.Skip("by hand: make beside TAGS=… says what it needs")
	}
	table := map[string]map[string]string{} // by example and tag
	used := map[string]bool{}
	for _, tag := range tags {
		source := checkOut(t, tag)
		files, err := filepath.Glob(source + "/example/*.nix")
		if err != nil || len(files) == 0 {
			t.Fatal(tag, files, err)
		}
		for _, file := range append(files, source+"/example/stand-alone/configuration.nix", "testdata/releases/layout.nix") {
			name := strings.TrimSuffix(filepath.Base(file), ".nix")
			name = map[string]string{"configuration": "stand-alone", "layout": "ours"}[name] + strings.NewReplacer("configuration", "", "layout", "").Replace(name)
			if table[name] == nil {
				table[name] = map[string]string{}
			}
			t.Run(tag+"/"+name, func(t *testing.T) {
				table[name][tag] = "fails"
				table[name][tag] = compareRelease(t, tag, name, evaluate(t, source, file), used)
			})
		}
	}
	for _, d := range releaseDifferences {
		if !used[d.reason] && slices.ContainsFunc(tags, d.tag.MatchString) && len(tags) > 5 {
			t.Errorf("listed, and not there: %s", d.reason)
		}
	}
	logTable(t, tags, table)
}

// checkOut returns the source of a release, "newest" for the newest commit.
func checkOut(t *testing.T, tag string) string {
	t.Helper()
	repository := os.Getenv("PROVISION_DISKO")
	dir := t.TempDir()
	commit := tag
	if tag == "newest" {
		commit = "HEAD"
	}
	archive := filepath.Join(dir, "source.tar")
	out, err := exec.CommandContext(t.Context(), "git", "-C", repository, "archive", "--output", archive, commit).CombinedOutput()
	if err != nil {
		t.Fatalf("$PROVISION_DISKO must be a clone of disko that has %s (see make beside): %v: %s", tag, err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("unpack disko %s: %v: %s", tag, err, out)
	}
	return dir
}

func evaluate(t *testing.T, source, file string) evaluated {
	t.Helper()
	lib := os.Getenv("PROVISION_NIXPKGS_LIB")
	if _, err := os.Stat(lib + "/modules.nix"); err != nil {
		t.Fatalf("$PROVISION_NIXPKGS_LIB is not the right folder (see make beside): %v", err)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	var disks []string
	for c := 'a'; c <= 'z'; c++ {
		disks = append(disks, "/dev/vd"+string(c))
	}
	cmd := exec.CommandContext(t.Context(), "nix-instantiate", "--eval", "--strict", "--json", "../internal/lab/beside/disko.nix",
		"--arg", "disko", source, "--arg", "lib", lib, "--arg", "layout", abs, "--arg", "unmounts", "false", "--argstr", "disks", strings.Join(disks, " "))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var e evaluated
	if err := json.Unmarshal(out, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// compareRelease returns what the table says.
func compareRelease(t *testing.T, tag, name string, e evaluated, used map[string]bool) string {
	t.Helper()
	if name == "ours" && os.Getenv("BESIDE") == "write" {
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, e.Devices, "", " "); err != nil {
			t.Fatal(err)
		}
		pretty.WriteByte('\n')
		if err := os.WriteFile("testdata/releases/"+tag+".json", pretty.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data := e.Devices
	if name == "multi-device-no-deps" { // it has no root, which is refused
		data = edit(t, data, map[string]any{"nodev": map[string]any{"/": map[string]any{
			"type": "nodev", "fsType": "tmpfs", "device": "tmpfs", "mountpoint": "/", "mountOptions": []any{}}}})
	}
	p, err := NewPlan(mustParse(t, data), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	traces := runWithStubs(t, e)
	explained := 0
	for i, stage := range []Stage{StageCreate, StageMount} {
		lines := diff(releaseCommands(theirs(t, traces[i])), releaseCommands(ourCommands(p, stage)))
		for _, line := range lines {
			if moved(lines, line) {
				explained++
				continue
			}
			reason := slices.IndexFunc(releaseDifferences, func(d releaseDifference) bool {
				return d.tag.MatchString(tag) && d.line.MatchString(line)
			})
			if reason < 0 {
				t.Errorf("%s: %s", stage, line)
				continue
			}
			explained++
			used[releaseDifferences[reason].reason] = true
		}
	}
	switch {
	case t.Failed():
		return "differs"
	case explained > 0:
		return "same, but"
	}
	return "same"
}

// moved tells whether both sides have a command, each in its place: disko fills a partition before it makes the next.
func moved(lines []string, line string) bool {
	other := map[byte]string{'-': "+", '+': "-"}[line[0]]
	return slices.Contains(lines, other+line[1:])
}

// releaseDifference is one between our commands and those of some releases.
type releaseDifference struct {
	tag    *regexp.Regexp
	reason string
	line   *regexp.Regexp
}

// all matches every tag.
var all = regexp.MustCompile("")

var releaseDifferences = []releaseDifference{
	{all, "disko's mount script loses swap, or swap files, in many releases; a large build may need it",
		regexp.MustCompile(`^\+ swapon `)},
	{all, "a volume group that was just made is active", regexp.MustCompile(`^- vgchange -a y$`)},
	{all, "a kernel module is loaded once, and before volumes are made", regexp.MustCompile(`^[+-] modprobe `)},
	{all, "a container that was just made stays open as its header says (--persistent), for the mounts, too",
		regexp.MustCompile(`^[+-] cryptsetup open `)},
	{regexp.MustCompile(`v1\.[1-6]\.`), "before 1.7 a dataset's mountpoint is left to the mount, and a pool's options to its creation",
		regexp.MustCompile(`^[+-] zfs (create|set) `)},
	{regexp.MustCompile(`v1\.[1-6]\.`), "before 1.7 disko uses swap with a random key while it installs, and the host makes it anew",
		regexp.MustCompile(`^- (mkswap|swapon) `)},
	{regexp.MustCompile(`v1\.1\.`), "1.1 does not wait for a pool's volumes", regexp.MustCompile(`^\+ zvol_wait$`)},
	{all, "the disks were wiped, so there is no pool to import", regexp.MustCompile(`^- zpool import `)},
	{all, "zpool create mounts the pool; disko asks whether it did, and the stubs say no",
		regexp.MustCompile(`^[+-] zfs unmount `)},
	{all, "a hook is one step with the layout's own shell", regexp.MustCompile(`(?s)^- zfs (list -H|snapshot)|^\+ bash -efu -c `)},
	{all, "what is unlocked stays so until it is mounted", regexp.MustCompile(`^- bcachefs unlock`)},
	{all, "sgdisk sleeps for a second", regexp.MustCompile(`^- sgdisk --zap-all /dev/md/|^\+ dd if=/dev/zero of=/dev/md/`)},
	{all, "the example has no root and is refused; the test adds one", regexp.MustCompile(`^\+ mount tmpfs /mnt -t tmpfs -o $`)},
}

// releaseCommands leaves out of commands what is the same without it: sgdisk's arguments that say its defaults, the order
// of arguments, older names of commands.
func releaseCommands(commands []string) []string {
	var list []string
	for _, c := range commands {
		words := strings.Fields(c)
		switch {
		case words[0] == "cryptsetup" && words[1] == "luksOpen":
			words[1] = "open"
			list = append(list, strings.Join(words, " "))
			continue
		case words[0] == "zpool" && words[1] == "create":
			slices.Sort(words[2:])
			list = append(list, strings.Join(words, " "))
			continue
		case words[0] != "sgdisk":
			list = append(list, c)
			continue
		case slices.Contains(words, "--clear"):
			continue
		}
		words = slices.DeleteFunc(words, sgdiskDefault.MatchString)
		slices.Sort(words[1:])
		list = append(list, strings.Join(words, " "))
	}
	return list
}

var sgdiskDefault = regexp.MustCompile(`^--(partition-guid=[0-9]+:R|attributes=[0-9]+:=:0)$`)

// runWithStubs runs disko's scripts, the second as the first left all, and returns the commands of each as theirs
// reads them.
func runWithStubs(t *testing.T, e evaluated) (traces [][]byte) {
	t.Helper()
	stubs, err := os.ReadFile("testdata/releases/stubs.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stubs") // in which nobody may write, as which the scripts run
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	bin, tmp := filepath.Join(dir, "bin"), filepath.Join(dir, "tmp")
	for _, folder := range []string{dir, bin, tmp} {
		if err := errors.Join(os.MkdirAll(folder, 0o755), os.Chmod(folder, 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range strings.Fields("bash cat cut dirname diff grep mkdir mktemp rm sort tr wc") {
		at, err := exec.LookPath(tool)
		if err == nil {
			err = os.Symlink(at, filepath.Join(bin, tool))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// The examples' key file is where nobody else's is.
	const key = "/tmp/secret.key"
	if err := os.WriteFile(tmp+"/secret.key", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp+"/secret.key", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{e.Create, e.Mount} {
		script = strings.ReplaceAll(script, key, tmp+"/secret.key")
		trace := filepath.Join(dir, "trace")
		if err := os.WriteFile(trace, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "bash"), "-c", string(stubs)+script)
		cmd.Env = []string{"PATH=" + bin, "TMPDIR=" + tmp, "STUBS=" + dir}
		cmd.Stdin = strings.NewReader(strings.Repeat("secret\n", 20))
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if err := os.Chmod(trace, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("disko's script: %v\n%s", err, out)
		}
		data, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		data = bytes.ReplaceAll(data, []byte(tmp+"/secret.key"), []byte(key))
		traces = append(traces, readTrace(t, string(data), tmp))
	}
	return traces
}

// readTrace makes JSON lines of what the stubs noted.
func readTrace(t *testing.T, data, tmp string) []byte {
	t.Helper()
	var lines bytes.Buffer
	temporary := regexp.MustCompile(regexp.QuoteMeta(tmp) + `/tmp\.[A-Za-z0-9]+`)
	password := regexp.MustCompile(`^/dev/fd/[0-9]+$`)
	for record := range strings.SplitSeq(strings.TrimSuffix(data, "\036"), "\036") {
		words := strings.Split(strings.TrimSuffix(record, "\037"), "\037")
		for i := range words {
			words[i] = temporary.ReplaceAllString(words[i], "$$TMP1")
			words[i] = password.ReplaceAllString(words[i], "<(PASSWORD)")
		}
		query := words[0] == "?"
		if query {
			words = words[1:]
		}
		line, err := json.Marshal(map[string]any{"argv": words, "query": query})
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(append(line, '\n'))
	}
	return lines.Bytes()
}

// logTable prints the table of docs/disko.md.
func logTable(t *testing.T, tags []string, table map[string]map[string]string) {
	var b strings.Builder
	fmt.Fprintf(&b, "| example | %s |\n|---%s|\n", strings.Join(tags, " | "), strings.Repeat("|---", len(tags)))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, tag := range tags {
			fmt.Fprintf(&b, " %s |", table[name][tag])
		}
		b.WriteByte('\n')
	}
	t.Log("\n" + b.String())
}
