package disko

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// parseBound reads a bound as a layout's would be.
func parseBound(text string) (bound, error) {
	r := &reader{}
	a := r.set("p", []byte(`{"b":`+strconv.Quote(text)+`}`))
	b := a.bound("b")
	return b, r.err()
}

func TestBound(t *testing.T) {
	for text, want := range map[string]bound{
		"0": {sign: ' '}, "-0": {sign: '-'}, "+0": {sign: '+'}, "34s": {sign: ' ', number: 34}, "2048": {sign: ' ', number: 2048},
		"+500M": {sign: '+', number: 500, unit: 2}, "-1G": {sign: '-', number: 1, unit: 3}, "128m": {sign: ' ', number: 128, unit: 2},
		"+2T": {sign: '+', number: 2, unit: 4}, "+1P": {sign: '+', number: 1, unit: 5}, "+4k": {sign: '+', number: 4, unit: 1},
		"0%": {sign: ' '}, "-0%": {sign: '-'}, "0MiB": {sign: ' '}, "+0G": {sign: '+'},
		"512MiB": {sign: ' ', number: 512, unit: 2}, "512MB": {sign: ' ', number: 512, unit: 2}, "512mib": {sign: ' ', number: 512, unit: 2},
		"+512MiB": {sign: '+', number: 512, unit: 2}, "-1GiB": {sign: '-', number: 1, unit: 3}, "010K": {sign: ' ', number: 10, unit: 1},
		"1E": {sign: ' ', number: 1, unit: 6},
	} {
		got, err := parseBound(text)
		want.text = text
		if err != nil || got != want {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "+", "-", "M", "+M", "1.5G", "5%", "100%", "+50%", "9E", "++1", "+-1", "1 G", "1Gx", "1GBi", "512B", "0s0", "99999999999999999999", "9999999P", "1_0", "0x10", "½"} {
		if b, err := parseBound(text); err == nil {
			t.Errorf("%q was read as %+v", text, b)
		}
	}
}

func TestHuman(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 512: "512 B", 512 * mib: "512 MiB", 7680 * mib: "7.5 GiB", math.MaxInt64: "8 EiB"} {
		if got := human(n); got != want {
			t.Errorf("human(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestSmallest(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/efi.json"))
	// 1 MiB in front, the ESP, and one that the rest and the backup table share.
	if n, ok := smallest(tableOf(l), 512); !ok || n != (1+500+1)*mib {
		t.Errorf("smallest disk: %s, %t", human(n), ok)
	}
	for _, ss := range []int64{0, 1, 511, 513, 1 << 20} {
		if _, err := arrange(tableOf(l), 1<<40, ss); err == nil {
			t.Errorf("sectors of %d bytes were taken", ss)
		}
	}
}

// TestArrangeLikeSgdisk makes random partition tables with sgdisk and expects each
// partition where arrange puts it. The seed is fixed; the cases cover all forms of bounds.
func TestArrangeLikeSgdisk(t *testing.T) {
	if _, err := exec.LookPath("sgdisk"); err != nil {
		t.Skip("sgdisk is not installed (apt-get install gdisk)")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) bound {
		b, err := parseBound(list[rnd.IntN(len(list))])
		if err != nil {
			t.Error(err)
		}
		return b
	}
	some := func(format string, n int) string { return fmt.Sprintf(format, 1+rnd.IntN(n)) }
	// sgdisk sleeps for a second after each write, so that many cases at once cost little.
	var all sync.WaitGroup
	for i := range 24 {
		size := int64(1+rnd.IntN(4000)) * mib / 4
		var parts []partition
		common := uint64(0)
		if i%4 == 0 {
			common = oldAlignment
		}
		for range 1 + rnd.IntN(4) {
			start := pick("0", "0", "0", "1M", some("%ds", 3000), some("%dM", 300), some("+%dM", 9), some("-%dM", 90), some("%dK", 5000), "0%", "0M", some("%dMiB", 300), some("-%dMB", 90))
			end := pick("-0", "+0", "0", some("+%dM", 200), some("+%dK", 5000), some("+%d", 9000), some("-%dM", 90), some("%dM", 500), some("-%d", 9000), "0%", "-0MiB", some("+%dMiB", 200), some("+%dMB", 200), some("-%dmib", 90), some("%dMiB", 500))
			p := partition{start: start, end: end, label: "x", typeCode: "8300", alignment: common}
			if rnd.IntN(4) == 0 && common == 0 {
				p.alignment = uint64(1 + rnd.IntN(9))
			}
			parts = append(parts, p)
		}
		file := filepath.Join(t.TempDir(), strconv.Itoa(i))
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		all.Go(func() { compareWithSgdisk(t, file, parts, size, 512) })
	}
	all.Wait()
}

var printed = regexp.MustCompile(`(?m)^ +\d+ +(\d+) +(\d+) `)

// compareWithSgdisk runs a plan's sgdisk commands on a file or device.
func compareWithSgdisk(t *testing.T, dev string, parts []partition, size, sectorSize int64) {
	t.Helper()
	if out, err := exec.Command("sgdisk", "--clear", dev).CombinedOutput(); err != nil {
		t.Errorf("sgdisk: %v\n%s", err, out)
		return
	}
	var history bytes.Buffer
	for i, p := range parts {
		argv := append(p.options(i+1), dev)
		out, err := exec.Command("sgdisk", argv...).CombinedOutput()
		fmt.Fprintf(&history, "%s\n", strings.Join(argv, " "))
		want, wantErr := arrange(parts[:i+1], size, sectorSize)
		if (err != nil) != (wantErr != nil) {
			t.Errorf("%d bytes:\n%ssgdisk: %v, arrange: %v\n%s", size, &history, err, wantErr, out)
		}
		if err != nil || wantErr != nil {
			return
		}
		if got := printedBy(t, dev); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d bytes:\n%ssgdisk: %v\narrange: %v", size, &history, got, want)
			return
		}
	}
	// All in one call come to the same.
	want, _ := arrange(parts, size, sectorSize)
	for _, argv := range sgdisk(parts, dev) {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v\n%s", argv, err, out)
		}
	}
	if got := printedBy(t, dev); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%d bytes, %q: %v instead of %v", size, sgdisk(parts, dev), got, want)
	}
}

// printedBy are the partitions that sgdisk finds.
func printedBy(t *testing.T, dev string) (found []extent) {
	out, err := exec.Command("sgdisk", "--print", dev).Output()
	if err != nil {
		t.Error(err)
	}
	for _, m := range printed.FindAllStringSubmatch(string(out), -1) {
		first, _ := strconv.ParseUint(m[1], 10, 64)
		last, _ := strconv.ParseUint(m[2], 10, 64)
		found = append(found, extent{first, last})
	}
	return found
}
