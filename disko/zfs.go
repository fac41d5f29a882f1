package disko

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// zpool is a pool that is made of zfs members, and holds datasets.
type zpool struct {
	at, name               string   // at is the path of its mode
	options, rootFsOptions []string // name=value
	vdevs                  []vdev   // none: all members in one vdev of the kind mode
	mode                   string
	root                   *dataset
	datasets               []*dataset
}

// vdev is a group of members in the topology of a pool.
type vdev struct {
	role    string // "": data
	mode    string // "": each member by itself
	members []string
}

// dataset is a file system or, with a size, a volume.
type dataset struct {
	path, name string // the full name, including the pool's
	options    []string
	mountpoint string
	mountOpts  []string
	hooks      *hooks
	size       string
	args       []string
	content    deviceContent
}

var (
	zpoolName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:-]{0,62}$`)
	datasetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.: -]*(/[A-Za-z0-9_][A-Za-z0-9_.: -]*)*$`)
	zvolSize    = regexp.MustCompile(`^[1-9][0-9]*(\.[0-9]+)?[bBkKmMgGtTpP]?[iI]?[bB]?$`)
)

// zpoolModes are the kinds of redundancy, with the lowest number of members of each.
var zpoolModes = map[string]int{"": 1, "mirror": 2, "raidz": 2, "raidz1": 2, "raidz2": 3, "raidz3": 4}

func parseZpool(d *topDevice, a *attrs, _ string) {
	a.want("type", "zpool")
	z := &zpool{at: a.at("mode"), name: a.matches("name", zpoolName, "up to 63 letters, digits and _.:- beginning "+
		"with a letter"),
		options: a.options("options")}
	if slices.Contains([]string{"mirror", "raidz", "draid", "spare", "log", "special", "dedup", "cache"}, z.name) {
		a.bad("name", "%q is reserved by ZFS", z.name)
	}
	a.unique("pool", z.name, a.at("name"))
	d.on, d.body = blockTarget{device: z.name, name: z.name, at: a.path}, z
	z.parseMode(a)

	// disko combines these into datasets.__root.
	names, sets := a.sets("datasets")
	z.root = &dataset{path: a.path, name: z.name, mountpoint: a.file("mountpoint"), mountOpts: a.list("mountOptions"), options: a.options("rootFsOptions")}
	z.rootFsOptions = z.root.options
	if s := sets["__root"]; s == nil && z.root.mountpoint != "" {
		a.unique("mountpoint", path.Clean(z.root.mountpoint), a.at("mountpoint"))
	}
	for _, name := range names {
		ds := parseDataset(sets[name], z.name, name)
		if name == "__root" {
			z.root = ds
		} else {
			z.datasets = append(z.datasets, ds)
		}
	}

	// Parents come before their children. zfs create makes missing parents only for file systems.
	slices.SortStableFunc(z.datasets, func(a, b *dataset) int { return strings.Compare(a.name, b.name) })
	made := map[string]bool{z.name: true}
	for _, ds := range z.datasets {
		for at := ds.name; !made[at] && ds.size == ""; at = path.Dir(at) {
			made[at] = true
		}
		if parent := path.Dir(ds.name); ds.size != "" && !made[parent] {
			a.errorf(ds.path, "its parent %s is not in the layout; add it to the datasets", parent)
		}
	}
}

// parseMode reads the mode: a word, or a topology of vdevs.
func (z *zpool) parseMode(a *attrs) {
	raw := need[json.RawMessage](a, "mode")
	a.atLeast("zpool "+z.name, 1, a.path, "a pool")
	if json.Unmarshal(raw, &z.mode) == nil {
		if fewest, ok := zpoolModes[z.mode]; ok {
			a.atLeast("zpool "+z.name, fewest, a.path, "mode "+z.mode)
		} else {
			a.bad("mode", "%q is not known; known are %s", z.mode, strings.Join(slices.Sorted(maps.Keys(zpoolModes))[1:], ", "))
		}
		return
	}

	mode := a.set(a.at("mode"), raw)
	if mode == nil {
		return
	}
	t := mode.set(mode.at("topology"), mode.raw["topology"])
	mode.ignore("topology")
	mode.done()
	if t == nil {
		return
	}
	t.want("type", "topology")
	for _, role := range []string{"vdev", "spare", "log", "dedup", "special", "cache"} {
		if role == "spare" || role == "cache" {
			if members := t.list(role); len(members) > 0 {
				z.vdevs = append(z.vdevs, vdev{role: role, members: members})
			}
			continue
		}

		// special is one vdev or a list of them.
		if raw := t.raw[role]; bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) {
			t.raw[role] = slices.Concat([]byte("["), raw, []byte("]"))
		}
		sets := t.each(role)
		vdevs := make([]vdev, len(sets))
		for i, s := range sets {
			vdevs[i] = vdev{
				role:    strings.TrimPrefix(role, "vdev"),
				mode:    s.oneOf("mode", slices.Sorted(maps.Keys(zpoolModes))...),
				members: s.list("members"),
			}
			if fewest := max(1, zpoolModes[vdevs[i].mode]); len(vdevs[i].members) < fewest {
				s.bad("members", "has %d, and mode %q needs %d at least", len(vdevs[i].members), vdevs[i].mode, fewest)
			}
			s.done()
		}

		// Vdevs without a mode come first; otherwise they would become members of the vdev before them.
		slices.SortStableFunc(vdevs, func(a, b vdev) int { return cmp.Compare(min(1, len(a.mode)), min(1, len(b.mode))) })
		z.vdevs = append(z.vdevs, vdevs...)
	}

	t.done()
	if !slices.ContainsFunc(z.vdevs, func(v vdev) bool { return v.role == "" }) {
		a.bad("mode", "its topology has no vdev for data")
	}
}

func parseDataset(a *attrs, pool, key string) *dataset {
	d := &dataset{path: a.path, hooks: a.hooks(), name: pool}
	name := a.str("name")
	if key != "__root" {
		if d.name = pool + "/" + name; !datasetName.MatchString(name) || len(d.name) > 255 {
			a.bad("name", "%q is not a name for a dataset", name)
		}
		a.unique("dataset", d.name, a.at("name"))
	}

	d.options, d.mountOpts = a.options("options"), a.list("mountOptions")
	switch kind := a.str("type"); {
	case kind == "zfs_fs":
		d.mountpoint = a.mountpoint()
	case kind == "zfs_volume" && key != "__root":
		d.size = a.matches("size", zvolSize, "a number with K, M, G, T or P")
		d.args = a.list("extraArgs")
		d.content = a.volume("/dev/zvol/" + d.name)
	default:
		a.bad("type", "%q is not zfs_fs or zfs_volume", kind)
		a.ignore("mountpoint", "size", "extraArgs", "content")
	}

	if file, ok := strings.CutPrefix(d.option("keylocation"), "file://"); ok {
		a.absolute("options", file)
	}
	if d.option("keylocation") == "prompt" && d.option("keyformat") == "raw" {
		a.bad("options", "a raw key cannot be asked for; give keylocation a file")
	}
	a.done()
	return d
}

// option returns the value of an option; empty if it is not set.
func (d *dataset) option(name string) string {
	for _, o := range d.options {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value
		}
	}
	return ""
}

// key records the file from which a dataset's key is read. If zfs reads the key from standard input instead, key
// returns the file that has to be passed.
func (d *dataset) key(b *builder) (stdin string) {
	switch location := d.option("keylocation"); {
	case location == "prompt":
		stdin = passphrase(strings.ReplaceAll(d.name, "/", "-"))
		b.keys = append(b.keys, stdin)
		b.typed = append(b.typed, stdin)
	case strings.HasPrefix(location, "file://"):
		file := strings.TrimPrefix(location, "file://")
		b.keys = append(b.keys, file)
		if d.option("keyformat") == "passphrase" {
			b.typed = append(b.typed, file)
		}
	}

	return stdin
}

// fill makes or opens the pool, and then its datasets.
func (z *zpool) fill(b *builder, on blockTarget) {
	members := b.members["zpool "+z.name]
	state := b.together(on.at, "the pool "+z.name, members)
	switch state {
	case allNew:
		z.checkVolumes(b, members)
		z.make(b)
	case allKept:
		z.keep(b, members)
	case unseen:
		if b.facts == nil {
			z.open(b)
		}
	}

	b.close("export the pool "+z.name, z.name, "zpool", "export", z.name)
	for _, d := range append([]*dataset{z.root}, z.datasets...) {
		b.around(d.hooks, blockTarget{device: d.name, name: d.name, at: d.path, keep: state != allNew}, d)
	}
}

// open adds the step that imports a pool, even if it was last used by another system (-f): this installer, or the
// installed host. It mounts nothing (-N) and does not remember the pool (-R).
func (z *zpool) open(b *builder) {
	b.open(blockTarget{}, "import the pool "+z.name, z.name, "", "zpool", "import", "-f", "-N", "-R", target, z.name)
}

// keep compares an existing pool with the layout.
func (z *zpool) keep(b *builder, members []blockTarget) {
	for _, m := range members {
		if m.found.Label != z.name || m.found.UUID != members[0].found.UUID {
			b.errorf(z.at, "%s is part of the pool %q instead of %q", m.device, m.found.Label, z.name)
			return
		}
	}
	if !slices.Contains(b.facts.Pools, z.name) {
		z.open(b)
	}
}

// make adds the steps that make the pool.
func (z *zpool) make(b *builder) {
	// -R: mount below the target, and do not remember the pool in the installer.
	argv := []string{"zpool", "create", "-f", z.name, "-R", target}
	if z.root.option("canmount") == "off" {
		argv = append(argv, "-m", "none")
	}
	argv = append(argv, flagArgs("-o", z.options)...)
	argv = append(argv, flagArgs("-O", z.rootFsOptions)...)
	argv = append(argv, z.topology(b)...)
	b.secret("make the pool "+z.name, z.name, z.root.key(b), argv)
	b.names = append(b.names, uniqueName{"zfs_member", z.name})
	if m, c := z.root.option("mountpoint"), z.root.option("canmount"); m != "none" && m != "legacy" && c != "off" && c != "noauto" {
		b.step("unmount the pool "+z.name, z.name, "zfs", "unmount", z.name)
	}
}

// flagArgs returns the values, each preceded by the flag.
func flagArgs(flag string, values []string) (args []string) {
	for _, v := range values {
		args = append(args, flag, v)
	}
	return args
}

// topology returns the vdevs as arguments of zpool create. disko names a member by its disk, or by a path.
func (z *zpool) topology(b *builder) (args []string) {
	var members []string
	for _, m := range b.members["zpool "+z.name] {
		members = append(members, m.device)
	}
	if z.vdevs == nil {
		if z.mode != "" {
			args = []string{z.mode}
		}
		return append(args, members...)
	}

	role, left := "", slices.Clone(members)
	for _, v := range z.vdevs {
		if v.role != role {
			role = v.role
			args = append(args, role)
		}
		if v.mode != "" {
			args = append(args, v.mode)
		}
		for _, m := range v.members {
			device := m
			if !strings.HasPrefix(m, "/") {
				device = "/dev/disk/by-partlabel/disk-" + m + "-zfs"
			}
			node := b.places[device].device
			i := slices.Index(left, node)
			if i < 0 {
				b.errorf(z.at, "its topology has %q, which is not a member of the pool, or twice", m)
				continue
			}
			left = slices.Delete(left, i, i+1)
			args = append(args, node)
		}
	}

	if len(left) > 0 {
		b.errorf(z.at, "its topology leaves out the members %s", strings.Join(left, ", "))
	}
	return args
}

// onetime are options that can only be set at creation (PROP_ONETIME in zfs_prop.c).
var onetime = []string{"encryption", "casesensitivity", "utf8only", "normalization", "volblocksize", "pbkdf2iters", "pbkdf2salt", "keyformat"}

// keep reports whether a dataset exists already in a pool that is kept. If it is locked, keep adds the step that loads
// its key.
func (d *dataset) keep(b *builder, on blockTarget) bool {
	if !on.keep {
		return false
	}
	if b.facts == nil {
		if d.option("keylocation") != "" {
			b.open(blockTarget{}, "unlock "+d.name, d.name, d.key(b), "zfs", "load-key", d.name)
		}
		return true
	}

	pool, _, _ := strings.Cut(d.name, "/")
	if !slices.Contains(b.facts.Pools, pool) {
		return true // known once the pool is imported
	}
	i := slices.IndexFunc(b.facts.Datasets, func(have Dataset) bool { return have.Name == d.name })
	if i < 0 {
		return !b.lacks(d.path, "the pool has no dataset %s", d.name)
	}
	have, want := b.facts.Datasets[i], "filesystem"
	if d.size != "" {
		want = "volume"
	}
	if have.Type != want {
		b.errorf(d.path, "the dataset %s is a %s instead of a %s", d.name, have.Type, want)
	}
	if size := (logicalVolume{size: d.size}).bytes(); size > 0 && have.Size != strconv.FormatInt(size, 10) {
		b.errorf(d.path, "the volume %s has %s bytes instead of %d", d.name, have.Size, size)
	}
	if have.Locked {
		stdin := d.key(b)
		if stdin == "" && d.option("keylocation") == "" {
			return true // its parent's key unlocks it
		}
		b.open(blockTarget{}, "unlock "+d.name, d.name, stdin, "zfs", "load-key", d.name)
	}

	return true
}

// fill makes the dataset, unless it is kept, and mounts it.
func (d *dataset) fill(b *builder, on blockTarget) {
	kept := d.keep(b, on)
	if d.size != "" {
		d.fillVolume(b, kept)
		return
	}
	if !kept {
		d.make(b)
	}
	if d.option("mountpoint") == "none" || d.option("canmount") == "off" {
		return
	}
	mountOptions := d.mountOpts
	if d.option("mountpoint") != "legacy" {
		mountOptions = append(slices.Clone(mountOptions), "zfsutil")
	}
	b.mount(d.mountpoint, "zfs", d.name, mountOptions)
}

// make adds the steps that make a file system, or set the options of the pool's root.
func (d *dataset) make(b *builder) {
	options := d.options
	if d.mountpoint != "" && d.option("mountpoint") == "" {
		options = append(slices.Clone(options), "mountpoint="+d.mountpoint)
		slices.Sort(options)
	}
	if strings.Contains(d.name, "/") {
		// -u: do not mount yet; -p: make parents.
		argv := append([]string{"zfs", "create", "-u", "-p"}, flagArgs("-o", options)...)
		b.secret("make the dataset "+d.name, d.name, d.key(b), append(argv, d.name))
	} else {
		settable := slices.DeleteFunc(slices.Clone(options), func(o string) bool {
			name, _, _ := strings.Cut(o, "=")
			return slices.Contains(onetime, name)
		})
		if len(settable) > 0 {
			b.step("set the options of "+d.name, d.name, append(append([]string{"zfs", "set", "-u"}, settable...), d.name)...)
		}
	}
}

// fillVolume makes a volume, unless it is kept, and fills it.
func (d *dataset) fillVolume(b *builder, kept bool) {
	dev := "/dev/zvol/" + d.name
	at := blockTarget{device: dev, name: d.name, at: d.path, size: logicalVolume{size: d.size}.bytes(), sector: 512}
	if kept {
		if at.keep, at.found = true, b.there(dev); at.found != nil {
			at.device = at.found.device()
		}
	} else {
		d.makeVolume(b, dev)
	}
	b.places[dev] = at
	b.fill(d.content, at)
}

// makeVolume adds the steps that make a volume and wait for its device.
func (d *dataset) makeVolume(b *builder, dev string) {
	argv := append([]string{"zfs", "create"}, flagArgs("-o", d.options)...)
	argv = append(append(argv, "-V", d.size), d.args...)
	b.secret("make the volume "+d.name, dev, d.key(b), append(argv, d.name))
	b.step("wait for the volume "+d.name, dev, "zvol_wait")
	b.reread(dev)
}
