package layouts

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/internal/lab/beside"
)

var hasRAID = regexp.MustCompile(`"type": *"(mdadm|lvm_vg)"`)

// cycle makes a layout in all ways, and looks at what is there after each.
func (l layout) cycle(t *testing.T, m *machine) {
	lap := stopwatch(t)
	m.wipe(t)
	if l.before != "" {
		m.sh(t, "set -e\n"+l.before+"\nudevadm settle")
	}
	lap("wipe")
	l.make(t, m, disko.Fresh)
	for _, s := range m.remaining(t, l.data, disko.Format) {
		t.Errorf("left to do: %s: %q", s.Name, s.Argv)
	}
	lap("fresh")
	if sync := m.sh(t, "cat /proc/sys/dev/raid/speed_limit_max"); hasRAID.Match(l.data) && sync != "1000" {
		t.Errorf("RAIDs are synced at %s KiB/s beside the install", sync)
	}
	l.compare(t, m)
	if l.holds != "" {
		m.sh(t, "set -e\n"+l.holds)
	}
	m.sh(t, lookAgain+writeData)
	made := m.snapshot(t)
	lap("data and snapshot")

	closed := m.closed(t)
	l.make(t, m, disko.Mount)
	m.same(t, "after mount", made, nil)
	lap("mount")
	if again := m.closed(t); !maps.Equal(again, closed) {
		t.Error("mount has changed a partition table")
	}
	l.make(t, m, disko.Format)
	m.same(t, "after format", made, nil)
	lap("format with nothing to do")
	if l.remove != "" {
		m.sh(t, "set -e\n"+l.remove)
		check(t, m.made.Close(m.ctx)) // not Unmount, which expects what was mounted
	} else if again := m.closed(t); !maps.Equal(again, closed) {
		t.Error("format has changed a partition table")
	}
	if l.gone != "" {
		m.sh(t, "set -e\n"+l.removeClosed+"\nudevadm settle")
		l.make(t, m, disko.Format)
		m.same(t, "after making again what was removed", made, regexp.MustCompile(l.gone))
		m.closed(t)
		lap("format of what was removed")
	}
	m.sh(t, l.ends)
}

// compare compares what was made with what disko's own script makes of the layout, where that is recorded for disks of
// this size.
func (l layout) compare(t *testing.T, m *machine) {
	recorded, err := beside.Recorded(l.name)
	check(t, err)
	if recorded == nil || beside.DiskSize(l.name) != diskSize || slices.Contains(large, l.name) {
		return
	}
	ours, err := beside.Read(func(command string) (string, error) { return m.shell.Run(m.ctx, command) })
	check(t, err)
	for _, table := range ours {
		maps.DeleteFunc(table, func(thing string, _ map[string]string) bool { return notTaken.MatchString(thing) })
	}
	lines, err := beside.Compare(l.name, ours)
	check(t, err)
	for _, line := range lines {
		t.Error("beside disko: " + line)
	}
}

// notTaken are disks that the machine has beside those for the layouts.
var notTaken = regexp.MustCompile(`^(/dev/)?(vd[e-z]|sd|nvme)`)

// lookAgain lets udev see what it missed, as it does when a device changes while it looks at it: lsblk shows what udev saw.
const lookAgain = `udevadm settle
for name in $(lsblk --noheadings --raw --output KNAME,FSTYPE | awk '$2 == "" {print $1}'); do
	echo change >/sys/class/block/$name/uevent
done
udevadm settle
`

// use lends the machine to a test, after which its disks are closed.
func (m *machine) use(t *testing.T, f func(*testing.T, *machine)) {
	m.made = nil
	defer func() {
		if m.made != nil {
			check(t, m.made.Close(m.ctx))
		}
	}()
	f(t, m)
}

// make makes the layout in a way, which reads back what it made.
func (l layout) make(t *testing.T, m *machine, way disko.Mode) {
	t.Helper()
	m.made = m.tool(t, l.data, way)
	if _, err := m.made.Make(m.ctx); err != nil {
		t.Fatalf("%s: %v", way, err)
	}
}

// closed unmounts and closes what was made, and returns the partition tables' hashes.
func (m *machine) closed(t *testing.T) map[string]string {
	t.Helper()
	check(t, m.made.Unmount(m.ctx))
	if open := m.sh(t, `lsblk --noheadings --list --output NAME,TYPE,MOUNTPOINTS | awk '$2 != "disk" && $2 != "part" || NF > 2'
findmnt --noheadings --list --output TARGET | grep ^/mnt
tail -n +2 /proc/swaps
ls /run/provision/subvolumes 2>/dev/null
:`); open != "" {
		t.Errorf("after unmount and close there is still:\n%s", open)
	}
	if sync := m.sh(t, "cat /proc/sys/dev/raid/speed_limit_max"); sync != usualSync {
		t.Errorf("after unmount and close RAIDs are synced at %s KiB/s", sync)
	}
	tables := m.sh(t, "sync; lsblk --nodeps --noheadings --raw --output PATH,PTTYPE | awk 'NF == 2 {print $1}'")
	hashes := map[string]string{}
	for _, node := range strings.Fields(tables) {
		hash, err := m.disks[node].PartitionTable()
		check(t, err)
		hashes[node] = hash
	}
	return hashes
}

// writeFiles puts data of a user's into every file system that is mounted from a disk.
const writeFiles = `set -e
findmnt --noheadings --raw --types notmpfs --output TARGET,OPTIONS | while read -r at options; do
	at=$(printf %b "$at")
	case $at in /mnt | /mnt/*) ;; *) continue ;; esac
	case $options in ro,*) continue ;; esac
	[ ! -e "$at/user data" ] || continue
	mkdir -p "$at/user data/more"
	seq 20000 | sed "s|$| lines in $at|" >"$at/user data/more/numbers"
done
`

// writeData does so, and writes to every partition and volume with nothing in it.
const writeData = writeFiles + `for device in $(` + empty + `); do
	seq 2000 | sed "s|$| lines on $device|" | dd of=$device status=none conv=fsync
done
sync`

// empty lists the partitions and volumes that nothing is in.
const empty = `{
	lsblk --noheadings --paths --output NAME,TYPE,FSTYPE --raw | awk '$2 == "part" && $3 == "" {print $1}'
	lvs --noheadings --options lv_path --select 'segtype != thin-pool' 2>/dev/null
} | sort -u | while read -r device; do
	[ -n "$(lsblk --nodeps --noheadings --output FSTYPE $device)" ] || [ $(lsblk --noheadings --list $device | wc -l) != 1 ] || echo $device
done`

// names prints a script for sed that gives RAIDs and what device mapper makes the names that last.
const names = `for link in $(find /dev/md -type l ! -name '*[0-9]p[0-9]*' 2>/dev/null | sort -r); do
	echo "s|$(readlink -f $link)\b|$link|g"
done
for device in /sys/block/dm-*; do
	[ ! -e $device ] || echo "s|/dev/${device##*/}\b|/dev/mapper/$(cat $device/dm/name)|g"
done`

// snapshot returns what there is, a line for each: partitions, containers, file systems and swap with their UUIDs,
// volumes, subvolumes, mounts, and the users' data.
func (m *machine) snapshot(t *testing.T) []string {
	t.Helper()
	out := m.sh(t, lookAgain+`set -e
{
lsblk --noheadings --raw --paths --output NAME,TYPE,SIZE,START,RO,PTUUID,PARTTYPE,PARTLABEL,PARTFLAGS,PARTUUID,FSTYPE,LABEL,UUID
lvs --noheadings --separator ' ' --options vg_name,lv_name,lv_uuid,lv_size,segtype 2>/dev/null || :
findmnt --noheadings --raw --output TARGET,SOURCE,FSTYPE,FSROOT | grep ^/mnt || :
swapon --show=NAME,TYPE,SIZE,PRIO --noheadings --raw | while read -r device rest; do
	echo "swap $device $rest $(blkid --probe --output value --match-tag UUID "$device")"
done
for at in $(findmnt --noheadings --raw --types btrfs --output TARGET); do
	btrfs subvolume list -u "$(printf %b "$at")" | sed "s|gen [0-9]*||; s|^|$at |"
done
find /mnt -path '*/user data/*' -type f -exec sha256sum {} + 2>/dev/null || : # a btrfs may show itself inside itself
for device in $(`+empty+`); do
	echo "data on $device $(head -c 65536 $device | sha256sum)"
done
} | sed "$(`+names+`)"`)
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return slices.Compact(lines) // lsblk shows what has two parents twice
}

// same compares what there is with what was, but for what may change, of which something must have.
func (m *machine) same(t *testing.T, when string, was []string, changes *regexp.Regexp) {
	t.Helper()
	is := m.snapshot(t)
	changed := 0
	for mark, lines := range map[string][2][]string{"-": {was, is}, "+": {is, was}} {
		for _, line := range lines[0] {
			switch {
			case slices.Contains(lines[1], line):
			case changes != nil && changes.MatchString(line):
				changed++
			default:
				t.Errorf("%s: %s %s", when, mark, line)
			}
		}
	}
	if changes != nil && changed == 0 {
		t.Errorf("%s: nothing has changed", when)
	}
}

// stopwatch returns a function that logs the time since it was called last.
func stopwatch(t *testing.T) func(what string) {
	last := time.Now()
	return func(what string) {
		t.Helper()
		t.Logf("%-28s %6.1f s", what, time.Since(last).Seconds())
		last = time.Now()
	}
}
