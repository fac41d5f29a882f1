package disko

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stepJSON is the JSON form of a step, with its expected duration in seconds.
type stepJSON struct {
	plainStep
	Usual float64 `json:"usual_seconds,omitempty"`
}

// plainStep is a Step without its methods, so that encoding does not recurse.
type plainStep Step

// MarshalJSON adds usual_seconds if the expected duration is known.
func (s Step) MarshalJSON() ([]byte, error) {
	return json.Marshal(stepJSON{plainStep(s), s.Expected.Seconds()})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Step) UnmarshalJSON(data []byte) error {
	var j stepJSON
	err := json.Unmarshal(data, &j)
	*s = Step(j.plainStep)
	s.Expected = time.Duration(j.Usual * float64(time.Second))
	return err
}

// setExpected sets the expected duration of the steps for which it is known and at least a second.
func setExpected(steps []Step, places map[string]blockTarget) {
	sizes, tries := map[string]int64{}, map[string]time.Duration{}
	for _, p := range places {
		sizes[p.device] = p.size
	}
	for i := range steps {
		s := &steps[i]
		if slices.Contains(s.Argv, "luksFormat") {
			tries[s.Device] = iterTime(s.Argv)
		}
		try, ok := tries[s.Device]
		if !ok {
			try = defaultIterTime
		}
		if d := expectedDuration(s.Argv, sizes[s.Device], try); s.Hook == "" && d >= time.Second {
			s.Expected = d.Round(time.Second)
		}
	}
}

// perTiB is how long mkfs takes for each TiB of the device. It was measured with the tools of Debian 12 on loop devices
// over sparse files, including the sync after it, on 2 cores that others used at the same time; so each number is the
// lowest of several runs. The table has seconds, and how much is zeroed at the largest size:
//
//	           1 GiB  16 GiB   1 TiB   4 TiB  15 TiB  zeroed
//	ext2        -      0.02    0.49     -       -      16 GiB
//	ext3        -       -      3.3      -       -      17 GiB
//	ext4       0.01    0.01    0.06    0.26    0.50   1.2 GiB
//	xfs        0.01    0.01    0.03    0.03    0.25   2.0 GiB
//	btrfs      0.01    0.01    0.06    0.11    0.26   5 MiB
//	f2fs       0.01    0.05    0.12    0.28    0.63   0.7 GiB
//	exfat      0.01    0.01    0.04    0.14    0.44   0.5 GiB
//	ntfs -Q    0.02    0.18    0.32    0.70    2.0    0.5 GiB
//	vfat       0.02    0.09    2.8    5.4 (2 TiB)     0.3 GiB
//	mkswap     0.01    0.01    0.01    0.01    0.01   nothing
//
// A loop device zeroes and discards without writing. The time that a real disk needs for that is not included. Without
// -Q, -f or their long forms, mkfs.ntfs writes the whole device, which takes as long as the disk is slow; that is not
// known here.
var perTiB = map[string]time.Duration{
	"mkfs.ext2": 490 * time.Millisecond, "mkfs.ext3": 3300 * time.Millisecond, "mkfs.ext4": 33 * time.Millisecond,
	"mkfs.xfs": 17 * time.Millisecond, "mkfs.btrfs": 17 * time.Millisecond, "mkfs.f2fs": 42 * time.Millisecond,
	"mkfs.exfat": 29 * time.Millisecond, "mkfs.vfat": 2700 * time.Millisecond,
}

// quickNTFS is the time for each TiB of mkfs.ntfs in quick mode, in which it does not write the whole device.
const quickNTFS = 140 * time.Millisecond

// defaultIterTime is how long one derivation of a LUKS key takes by default (--iter-time of cryptsetup-luksFormat(8)).
const defaultIterTime = 2 * time.Second

// expectedDuration returns how long a command takes on a device of size bytes; 0 if that is not known or too short to
// matter. try is the time of one derivation of a LUKS key.
//
// cryptsetup 2.6 with argon2id, on 2 otherwise idle cores, took 5.8 s for luksFormat with the default of 2 s for each
// derivation and 11.5 s with 5 s, where most of the rest was spent on a benchmark of the machine; 1.9 s and 4.8 s to
// open; and 7.2 s for luksAddKey, which derives the old key and runs the benchmark for the new one. mdadm --create does
// not wait for the resync.
func expectedDuration(argv []string, size int64, try time.Duration) time.Duration {
	quick := func(arg string) bool { return slices.Contains([]string{"-f", "--fast", "-Q", "--quick"}, arg) }
	switch {
	case argv[0] == "mkfs.ntfs" && slices.ContainsFunc(argv, quick):
		return scale(quickNTFS, size)
	case argv[0] != "cryptsetup":
		return scale(perTiB[argv[0]], size)
	case slices.ContainsFunc(argv, unmeasured):
		return 0
	case slices.Contains(argv, "luksFormat"):
		return 2*time.Second + try*19/10
	case slices.Contains(argv, "luksAddKey"):
		return try + 5200*time.Millisecond
	case slices.Contains(argv, "open"):
		return try
	}

	return 0
}

// scale returns the duration for size bytes, given that for 1 TiB.
func scale(each time.Duration, size int64) time.Duration {
	return time.Duration(float64(each) * float64(size) / (1 << 40))
}

// unmeasured reports whether an argument makes the duration of cryptsetup unknown: --integrity writes the whole device,
// and --pbkdf options change the cost of a derivation.
func unmeasured(arg string) bool {
	return strings.HasPrefix(arg, "--integrity") || strings.HasPrefix(arg, "--pbkdf-")
}

// iterTime returns how long one derivation of a new container's key takes.
func iterTime(argv []string) time.Duration {
	for i, arg := range argv {
		value, ok := strings.CutPrefix(arg, "--iter-time=")
		if !ok && (arg == "--iter-time" || arg == "-i") && i+1 < len(argv) {
			value, ok = argv[i+1], true
		}
		if ms, err := strconv.Atoi(value); ok && err == nil && ms >= 0 && ms < 1e6 {
			return time.Duration(ms) * time.Millisecond
		}
	}
	return defaultIterTime
}
