package disko

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sim is a machine as the tools leave it: it knows what each command of a plan does, and
// shows what lsblk and the others would show then.
type sim struct {
	t       testing.TB
	names   []string // of devices, in the order in which they came
	devices map[string]*simDevice
	links   map[string]string
	mounts  []MountedAt
	swaps   []string
	pvs     map[string]string // device: group
	lvs     []LogicalVolume
	pools   map[string]bool // imported
	data    []Dataset
	inside  map[string]map[string]string // of btrfs, by UUID
	serial  int
}

// simDevice is a device; closed ones are remembered with all that is in them.
type simDevice struct {
	BlockDevice
	on     []string
	closed bool
}

func newSim(t testing.TB, f *Facts) *sim {
	m := &sim{t: t, devices: map[string]*simDevice{}, links: map[string]string{}, mounts: []MountedAt{{Target: "/", Source: "none"}},
		pvs: map[string]string{}, pools: map[string]bool{}, inside: map[string]map[string]string{}}
	for from, to := range f.Links {
		m.links[from] = to
	}
	for _, d := range f.BlockDevices {
		m.add(d.Path, "disk", int64(d.Size))
	}
	return m
}

func (m *sim) add(name, kind string, size int64, on ...string) *simDevice {
	d := &simDevice{BlockDevice: BlockDevice{Path: name, Name: strings.TrimPrefix(strings.TrimPrefix(name, "/dev/"), "mapper/"), Type: kind, Size: lenientNumber(size), SectorSize: 512}, on: on}
	if m.devices[name] == nil {
		m.names = append(m.names, name)
	}
	m.devices[name] = d
	return d
}

func (m *sim) remove(name string) {
	delete(m.devices, name)
	m.names = slices.DeleteFunc(m.names, func(n string) bool { return n == name })
}

// at returns a device by any of its names, which must be open.
func (m *sim) at(name string) *simDevice {
	m.t.Helper()
	if to, ok := m.links[name]; ok {
		name = to
	}
	if words := strings.Split(name, "/"); len(words) == 4 && words[2] != "mapper" && words[2] != "md" && words[2] != "zvol" {
		name = "/dev/mapper/" + mapperOf(words[2]) + "-" + mapperOf(words[3])
	}
	d := m.devices[name]
	if d == nil || d.closed {
		m.t.Fatalf("no device %s among %q", name, m.names)
	}
	return d
}

func (m *sim) uuid() string {
	m.serial++
	return fmt.Sprintf("%08x-0000-4000-8000-000000000000", m.serial)
}

// facts are what a probe would find.
func (m *sim) facts(look ProbePaths) *Facts {
	f := &Facts{Links: m.links, Mounts: m.mounts, Swaps: m.swaps, PhysicalVolumes: []PhysicalVolume{}, LogicalVolumes: m.lvs, Datasets: []Dataset{}, Inside: map[string]map[string]string{}}
	var tree func(name string) BlockDevice
	tree = func(name string) BlockDevice {
		b := m.devices[name].BlockDevice
		for _, mount := range m.mounts {
			if d := m.devices[mount.Source]; d != nil && (d.Path == name || b.FSType == "btrfs" && d.UUID == b.UUID) {
				b.Mountpoints = append(b.Mountpoints, mount.Target)
			}
		}
		if slices.Contains(m.swaps, name) {
			b.Mountpoints = append(b.Mountpoints, "[SWAP]")
		}
		for _, child := range m.names {
			if d := m.devices[child]; slices.Contains(d.on, name) && !d.closed {
				b.Children = append(b.Children, tree(child))
			}
		}
		return b
	}
	for _, name := range m.names {
		if d := m.devices[name]; len(d.on) == 0 && !d.closed {
			f.BlockDevices = append(f.BlockDevices, tree(name))
		}
		if group, ok := m.pvs[name]; ok && !m.devices[name].closed {
			f.PhysicalVolumes = append(f.PhysicalVolumes, PhysicalVolume{name, group})
		}
	}
	for pool := range m.pools {
		f.Pools = append(f.Pools, pool)
		for _, d := range m.data {
			if strings.HasPrefix(d.Name+"/", pool+"/") {
				f.Datasets = append(f.Datasets, d)
			}
		}
	}
	for device, paths := range look {
		f.Inside[device] = map[string]string{}
		for _, p := range paths {
			f.Inside[device][p] = m.inside[m.at(device).UUID][p]
		}
	}
	return f
}

// run does what steps say. Each device must be there, and each mount point be free or taken
// as the command needs it.
func (m *sim) run(steps []Step) {
	m.t.Helper()
	for _, s := range steps {
		argv := s.Argv
		last := argv[len(argv)-1]
		switch tool := argv[0]; {
		case strings.HasPrefix(tool, "mkfs."):
			m.mkfs(strings.TrimPrefix(tool, "mkfs."), argv[1:])
		case tool == "mkswap":
			m.at(last).FSType = "swap"
		case tool == "wipefs":
			d := m.at(last)
			d.FSType, d.UUID, d.Label = "", "", ""
			delete(m.pvs, d.Path)
		case tool == "sgdisk" || tool == "parted":
			for _, call := range single(argv) {
				m.table(call)
			}
		case tool == "dd":
			m.table([]string{"sgdisk", "--zap-all", strings.TrimPrefix(argv[2], "of=")})
		case tool == "cryptsetup":
			m.cryptsetup(argv)
		case tool == "mdadm":
			m.mdadm(argv)
		case strings.HasPrefix(tool, "pv"), strings.HasPrefix(tool, "vg"), strings.HasPrefix(tool, "lv"):
			m.lvm(argv)
		case tool == "zpool" || tool == "zfs":
			m.zfs(argv)
		case tool == "bcachefs" && argv[1] == "format":
			for _, arg := range argv {
				if uuid, ok := strings.CutPrefix(arg, "--uuid="); ok {
					for _, d := range argv {
						if strings.HasPrefix(d, "/dev/") {
							m.at(d).FSType, m.at(d).UUID = "bcachefs", uuid
							m.links["/dev/disk/by-uuid/"+strings.ToLower(uuid)] = m.at(d).Path
						}
					}
				}
			}
		case tool == "btrfs" && argv[1] != "device":
			m.btrfs(argv)
		case tool == "mount":
			m.mount(argv)
		case tool == "umount":
			n := len(m.mounts)
			m.mounts = slices.DeleteFunc(m.mounts, func(at MountedAt) bool { return at.Target == last || strings.HasPrefix(at.Target, last+"/") })
			if n == len(m.mounts) {
				m.t.Fatalf("%s is not mounted", last)
			}
		case tool == "swapon":
			if strings.HasPrefix(last, "/dev/") {
				last = m.at(last).Path
			}
			m.swaps = append(m.swaps, last)
		case tool == "swapoff":
			m.swaps = nil
		case slices.Contains([]string{"sfdisk", "partprobe", "udevadm", "modprobe", "mkdir", "zvol_wait", "bash", "sh", "bcachefs", "btrfs"}, tool):
		default:
			m.t.Fatalf("what does %q do?", argv)
		}
	}
}

func (m *sim) mkfs(kind string, args []string) {
	uuid := m.uuid()
	for i, arg := range args {
		if strings.HasPrefix(arg, "/dev/") && (i == len(args)-1 || kind == "btrfs") {
			d := m.at(arg)
			d.FSType, d.UUID = kind, uuid
		}
	}
}

func (m *sim) table(argv []string) {
	var disk *simDevice
	if argv[0] == "parted" {
		disk, argv = m.at(argv[2]), argv[4:]
	} else {
		disk = m.at(argv[len(argv)-1])
	}
	var used []extent
	number := 1
	parts := slices.DeleteFunc(slices.Clone(m.names), func(n string) bool {
		return m.devices[n].Type != "part" || !slices.Contains(m.devices[n].on, disk.Path)
	})
	for _, name := range parts {
		used = append(used, m.devices[name].extent(512))
		number = max(number, m.devices[name].number()+1)
	}
	switch {
	case argv[0] == "mklabel" || argv[1] == "--clear" || argv[1] == "--zap-all":
		for _, name := range parts {
			m.remove(name)
		}
		disk.TableType = map[string]string{"--zap-all": "", "msdos": "dos"}[argv[1]]
		if argv[1] == "gpt" || argv[1] == "--clear" {
			disk.TableType = "gpt"
		}
	case argv[0] == "mkpart":
		p := m.add(numbered(disk.Path, number), "part", 0, disk.Path)
		start, _ := position(argv[len(argv)-2], int64(disk.Size))
		end, _ := position(argv[len(argv)-1], int64(disk.Size))
		p.setExtent(int64(start), int64(end))
		p.PartLabel = argv[1]
	case argv[1] == "--align-end":
		m.newPartition(disk, argv, used)
	}
}

func (d *simDevice) setExtent(start, end int64) {
	d.Start, d.Size = lenientNumber(start/512), lenientNumber(end-start)
}

func (m *sim) newPartition(disk *simDevice, argv []string, used []extent) {
	var p partition
	n, d := "", BlockDevice{}
	flags := uint64(0)
	for _, arg := range argv[2 : len(argv)-1] {
		option, value, _ := strings.Cut(arg, "=")
		words := strings.Split(value, ":")
		switch option {
		case "--set-alignment":
			p.alignment, _ = strconv.ParseUint(value, 10, 64)
		case "--new":
			n, p.start, p.end = words[0], simBound(words[1]), simBound(words[2])
		case "--partition-guid":
			if d.PartUUID = words[1]; d.PartUUID == "R" {
				d.PartUUID = m.uuid()
			}
		case "--change-name":
			d.PartLabel = words[1]
		case "--typecode":
			d.PartType = strings.ToLower(typeGUID(words[1]))
		case "--attributes":
			if bit, err := strconv.Atoi(words[2]); err == nil && words[1] == "set" {
				flags |= 1 << bit
			}
		}
	}
	at, _ := strconv.Atoi(n)
	if m.devices[numbered(disk.Path, at)] != nil {
		m.t.Fatalf("%q: partition %d is there", argv, at)
	}
	all, err := arrangeBeside(used, []partition{p}, int64(disk.Size), 512)
	if err != nil {
		m.t.Fatalf("%q: %v", argv, err)
	}
	e := all[len(all)-1]
	for link, to := range m.links {
		if array, ok := strings.CutPrefix(link, "/dev/md/"); ok && to == disk.Path {
			m.links[fmt.Sprintf("/dev/disk/by-id/md-name-any:%s-part%d", array, at)] = numbered(disk.Path, at)
		}
	}
	made := m.add(numbered(disk.Path, at), "part", int64(e.last-e.first+1)*512, disk.Path)
	made.Start, made.PartLabel, made.PartType, made.PartUUID = lenientNumber(e.first), d.PartLabel, d.PartType, d.PartUUID
	if flags > 0 {
		made.PartFlags = fmt.Sprintf("%#x", flags)
	}
}

func simBound(text string) bound {
	a := &attrs{reader: newReader(), raw: map[string]json.RawMessage{"b": json.RawMessage(strconv.Quote(text))}, unread: map[string]bool{}}
	return a.bound("b")
}

func (m *sim) cryptsetup(argv []string) {
	switch {
	case argv[1] == "close":
		m.devices["/dev/mapper/"+argv[2]].closed = true
	case argv[1] == "luksAddKey":
		m.at(argv[2])
	case argv[2] == "luksFormat":
		d := m.at(argv[3])
		head := d
		for _, arg := range argv {
			if file, ok := strings.CutPrefix(arg, "--header="); ok {
				head = m.at(file)
			}
		}
		head.FSType, head.UUID = "crypto_LUKS", m.uuid()
		for _, name := range m.names {
			if slices.Contains(m.devices[name].on, d.Path) {
				m.remove(name)
			}
		}
	case argv[1] == "open":
		d := m.at(argv[2])
		name := "/dev/mapper/" + argv[3]
		switch inner := m.devices[name]; {
		case d.FSType != "crypto_LUKS" && !strings.Contains(strings.Join(argv, " "), "--header=") || inner != nil && !inner.closed:
			m.t.Fatalf("%q: not LUKS, or open", argv)
		case inner != nil && slices.Equal(inner.on, []string{d.Path}):
			inner.closed = false
		default:
			m.add(name, "crypt", int64(d.Size)-16*mib, d.Path)
		}
	}
}

func (m *sim) mdadm(argv []string) {
	var members []string
	for _, arg := range argv[3:] {
		if strings.HasPrefix(arg, "/dev/") {
			members = append(members, m.at(arg).Path)
		}
	}
	switch name := argv[2]; argv[1] {
	case "--create":
		uuid, size := m.uuid(), int64(1<<40)
		for _, member := range members {
			d := m.devices[member]
			d.FSType, d.UUID, d.Label = "linux_raid_member", uuid, "any:"+path.Base(name)
			size = min(size, int64(d.Size))
		}
		kernel := fmt.Sprintf("/dev/md%d", 127-len(m.links))
		m.links[name] = kernel
		level := ""
		for _, arg := range argv {
			if l, ok := strings.CutPrefix(arg, "--level="); ok {
				level = l
			}
		}
		m.add(kernel, "raid"+level, size, members...)
	case "--assemble":
		for _, d := range m.devices {
			if strings.HasPrefix(d.Type, "raid") && slices.Equal(d.on, members) {
				d.closed = false
				m.links[name] = d.Path
			}
		}
	case "--stop":
		m.at(name).closed = true
		for link, to := range m.links {
			if strings.HasPrefix(link, "/dev/md/") && to == m.links[name] && link != name {
				delete(m.links, link)
			}
		}
		delete(m.links, name)
	}
}

func (m *sim) lvm(argv []string) {
	switch last := argv[len(argv)-1]; argv[0] {
	case "pvcreate":
		d := m.at(last)
		d.FSType, d.UUID = "LVM2_member", m.uuid()
		m.pvs[d.Path] = ""
	case "vgcreate":
		m.lvs = slices.DeleteFunc(m.lvs, func(lv LogicalVolume) bool { return lv.Group == argv[1] })
		for _, device := range argv[2:] {
			d := m.at(device)
			if group, ok := m.pvs[d.Path]; !ok || group != "" {
				m.t.Fatalf("%q: %s is no free physical volume", argv, device)
			}
			m.pvs[d.Path] = argv[1]
		}
	case "vgchange":
		for _, d := range m.devices {
			if d.Type == "lvm" && strings.HasPrefix(d.Name, mapperOf(last)+"-") {
				d.closed = argv[2] == "n"
			}
		}
	case "lvcreate":
		m.lvcreate(argv, last)
	}
}

func (m *sim) lvcreate(argv []string, group string) {
	lv := LogicalVolume{Group: group, Type: "linear"}
	for i, arg := range argv {
		option, value, _ := strings.Cut(arg, "=")
		switch option {
		case "-n":
			lv.Name = argv[i+1]
		case "-L", "-V":
			lv.Size = lenientNumber(logicalVolume{size: argv[i+1]}.bytes())
		case "-l":
			lv.Size = 1 << 30
		case "--type":
			lv.Type = value
			if value == "raid5" || value == "raid6" {
				lv.Type += "_ls"
			}
		case "--thinpool":
			lv.Type, lv.Pool = "thin", value
		}
	}
	m.lvs = append(m.lvs, lv)
	var on []string
	for device, name := range m.pvs {
		if name == group {
			on = append(on, device)
		}
	}
	slices.Sort(on)
	if lv.Type != "thin-pool" {
		m.add("/dev/mapper/"+mapperOf(group)+"-"+mapperOf(lv.Name), "lvm", int64(lv.Size), on...)
	}
}

func (m *sim) zfs(argv []string) {
	last := argv[len(argv)-1]
	pool, _, _ := strings.Cut(last, "/")
	switch argv[0] + " " + argv[1] {
	case "zpool create":
		uuid, name := m.uuid(), argv[3]
		for _, arg := range argv[4:] {
			if strings.HasPrefix(arg, "/dev/") {
				d := m.at(arg)
				d.FSType, d.UUID, d.Label = "zfs_member", uuid, name
			}
		}
		m.pools[name] = true
		m.data = append(m.data, Dataset{Name: name, Type: "filesystem"})
	case "zpool import":
		m.pools[last] = true
	case "zpool export":
		delete(m.pools, last)
		for i := range m.data {
			if m.data[i].Name == last || strings.HasPrefix(m.data[i].Name, last+"/") {
				m.data[i].Locked = m.data[i].Size != "" && false
			}
		}
	case "zfs create":
		if !m.pools[pool] {
			m.t.Fatalf("%q: not imported", argv)
		}
		d := Dataset{Name: last, Type: "filesystem"}
		if i := slices.Index(argv, "-V"); i > 0 {
			d.Type, d.Size = "volume", strconv.FormatInt(logicalVolume{size: argv[i+1]}.bytes(), 10)
			name := fmt.Sprintf("/dev/zd%d", 16*len(m.data))
			m.links["/dev/zvol/"+last] = name
			m.add(name, "disk", logicalVolume{size: argv[i+1]}.bytes())
		}
		m.data = append(m.data, d)
	}
}

func (m *sim) btrfs(argv []string) {
	kind, at := "subvolume", argv[3]
	if argv[1] == "filesystem" {
		kind, at = "file", argv[5]
	}
	i := slices.IndexFunc(m.mounts, func(at MountedAt) bool { return at.Target == scratch })
	if i < 0 {
		m.t.Fatalf("%q: nothing is mounted there", argv)
	}
	uuid := m.devices[m.mounts[i].Source].UUID
	if m.inside[uuid] == nil {
		m.inside[uuid] = map[string]string{}
	}
	p := path.Clean(strings.TrimPrefix(at, scratch))
	if m.inside[uuid][p] != "" {
		m.t.Fatalf("%q: it is there", argv)
	}
	m.inside[uuid][p] = kind
}

func (m *sim) mount(argv []string) {
	at := MountedAt{Source: argv[1], Target: argv[2], FSType: argv[4], FSRoot: "/"}
	if strings.HasPrefix(at.Source, "/dev/") {
		d := m.at(at.Source)
		if at.Source = d.Path; d.FSType != at.FSType {
			m.t.Fatalf("%q: it holds %q", argv, d.FSType)
		}
	}
	for i, arg := range argv {
		if sub, ok := strings.CutPrefix(arg, "subvol="); ok && argv[i-1] == "-o" {
			at.FSRoot = path.Clean("/" + sub)
			if kind := m.inside[m.devices[at.Source].UUID][at.FSRoot]; at.FSRoot != "/" && kind != "subvolume" {
				m.t.Fatalf("%q: no such subvolume", argv)
			}
		}
	}
	m.mounts = append(m.mounts, at)
}

// plan plans in a way, and goes on until all that is closed is open.
func (m *sim) plan(l *Layout, way Mode) (*Plan, error) {
	m.t.Helper()
	var look ProbePaths
	for range 10 {
		p, err := NewPlan(l, m.facts(look), Options{Mode: way})
		if err != nil || len(p.Paths) == 0 && !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Stage == StageOpen }) {
			return p, err
		}
		m.run(p.Steps)
		look = p.Paths
	}
	p, _ := NewPlan(l, m.facts(look), Options{Mode: way})
	m.t.Fatalf("it never ends: %v\n%s", p.Paths, planText(p))
	return nil, nil
}

func (m *sim) empty(l *Layout, way Mode, when string) {
	m.t.Helper()
	p, err := m.plan(l, way)
	if err != nil {
		m.t.Fatalf("%s %s: %v", way, when, err)
	}
	if len(p.Steps) > 0 {
		m.t.Fatalf("%s %s has steps:\n%s", way, when, planText(p))
	}
}

// TestKeep: what a plan made is as the layout says. The ways that keep find nothing to do
// then; closed, all is opened and mounted again and nothing made.
func TestKeep(t *testing.T) {
	layouts, err := filepath.Glob("testdata/layouts/*.json")
	more, _ := filepath.Glob("../../shared/disko/layouts/*.json")
	if err != nil || len(layouts) < 16 {
		t.Fatal(err, layouts)
	}
	for _, file := range append(layouts, more...) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			l, err := Parse(readAny(t, file))
			if filepath.Base(file) == "multi-device-no-deps.json" {
				wantProblems(t, err, `disk: nothing is mounted at "/"`)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m := newSim(t, numberedDisks(t, l))
			keeps(t, m, l)
			lost(t, m, l)
		})
	}
}

// numberedDisks are blank ones that no layout calls by their kernel names.
func numberedDisks(t testing.TB, l *Layout) *Facts {
	f := blank(t, l)
	f.Links = map[string]string{}
	for i, d := range l.disks() {
		name := fmt.Sprintf("nvme%dn1", i)
		f.BlockDevices[i].Path, f.BlockDevices[i].Name = "/dev/"+name, name
		f.Links[d.on.device] = "/dev/" + name
	}
	return f
}

func readAny(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func keeps(t testing.TB, m *sim, l *Layout) {
	t.Helper()
	p, err := m.plan(l, Fresh)
	if err != nil {
		t.Fatal(err)
	}
	m.run(p.Steps)
	m.empty(l, Format, "after fresh")
	m.empty(l, Mount, "after fresh")
	m.run(p.Unmount())
	if len(m.mounts) != 1 || len(m.swaps) != 0 {
		t.Fatalf("after unmounting there are %v, %q", m.mounts, m.swaps)
	}
	again, err := m.plan(l, Mount)
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	for _, s := range again.Steps {
		if s.Stage != StageMount {
			t.Fatalf("to mount has a step to %s: %q", s.Stage, s.Argv)
		}
	}
	m.run(again.Steps)
	m.empty(l, Format, "after mount")
	m.empty(l, Mount, "after mount")
}

// lost: of what is missing, exactly that is made again, and mount says that it is missing.
func lost(t testing.TB, m *sim, l *Layout) {
	t.Helper()
	for _, name := range m.names {
		d := m.devices[name]
		if !slices.Contains([]string{"vfat", "ext4", "xfs", "swap", "f2fs"}, d.FSType) {
			continue
		}
		p, err := m.plan(l, Mount)
		if err != nil {
			t.Fatal(err)
		}
		m.run(p.Unmount())
		kind := d.FSType
		d.FSType, d.UUID = "", ""
		if _, err := m.plan(l, Mount); err == nil || !strings.Contains(err.Error(), " is empty, and the layout has "+kind+" there") {
			t.Errorf("without %s, mount says %v", name, err)
		}
		if p, err = m.plan(l, Format); err != nil {
			t.Fatal(err)
		}
		made := slices.DeleteFunc(argvs(p.Steps, StageCreate), func(argv string) bool { return strings.HasPrefix(argv, "bash ") })
		if len(made) != 1 || !strings.HasPrefix(made[0], "mk") || !strings.HasSuffix(made[0], " "+name) {
			t.Errorf("to make %s again it does %q", name, made)
		}
		m.run(p.Steps)
		m.empty(l, Format, "after making "+name+" again")
	}
}
