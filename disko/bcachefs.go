package disko

import (
	"path"
	"slices"
	"strings"
)

// bcachefs is a file system that is made of bcachefs members.
type bcachefs struct {
	name, uuid   string
	passwordFile string
	args         []string
	root         subvolume
	subs         []subvolume
}

// bcachefsMember is a member, with the arguments of bcachefs format for it.
type bcachefsMember struct {
	memberDevice
	args []string
}

func parseBcachefsMember(a *attrs) deviceContent {
	m := &bcachefsMember{memberDevice: memberDevice{a.member("bcachefs_filesystems", "filesystem"), "bcachefs"}}
	m.args = append([]string{"--label=" + a.optional("label")}, a.borrow("extraFormatArgs", a.list("extraFormatArgs"))...)
	return m
}

func (m *bcachefsMember) fill(b *builder, on blockTarget) {
	m.memberDevice.fill(b, on)
	if list := b.members[m.key]; !list[len(list)-1].keep {
		b.formatArgs[m.key] = slices.Concat(b.formatArgs[m.key], b.overwrite(m.args), []string{on.device})
	}
}

func parseBcachefs(d *topDevice, a *attrs, _ string) {
	a.want("type", "bcachefs_filesystem")
	f := &bcachefs{name: a.str("name"), uuid: a.matches("uuid", guidPattern, "UUIDs"), passwordFile: a.file("passwordFile"),
		args: a.borrow("extraFormatArgs", a.stringList("extraFormatArgs")), root: subvolume{mountpoint: a.mountpoint(), options: a.list("mountOptions")}}
	a.unique("uuid", strings.ToUpper(f.uuid), a.at("uuid"))
	a.atLeast("bcachefs_filesystems "+f.name, 1, a.path, "a file system")
	names, sets := a.sets("subvolumes")
	for _, name := range names {
		s := sets[name]
		s.want("type", "bcachefs_subvolume")
		f.subs = append(f.subs, subvolume{name: s.subvolumeName(a.path), mountpoint: s.mountpoint(), options: s.list("mountOptions")})
		s.done()
	}

	sortSubvolumes(f.subs)
	d.on = blockTarget{device: "/dev/disk/by-uuid/" + strings.ToLower(f.uuid), name: f.name, at: a.path}
	d.body = f
}

// fill formats all members at once. Commands refer to the file system by its UUID, as mount takes either the UUID or
// the list of all devices.
func (f *bcachefs) fill(b *builder, on blockTarget) {
	members := b.members["bcachefs_filesystems "+f.name]
	if f.passwordFile != "" {
		b.keys = append(b.keys, f.passwordFile)
		b.typed = append(b.typed, f.passwordFile)
	}
	switch b.together(on.at, "the file system "+f.name, members) {
	case allNew:
		f.make(b, on)
	case allKept:
		on.keep = true
		for _, m := range members {
			if !strings.EqualFold(m.found.UUID, f.uuid) {
				b.errorf(on.at, "the uuid of the bcachefs on %s is %s instead of %s", m.device, m.found.UUID, f.uuid)
			}
		}
	case unseen, mixed:
		on.keep = true
	}

	f.mount(b, f.root, on)
	for _, s := range f.subs {
		s.options = append(slices.Clone(s.options), "X-mount.subdir="+strings.Trim(s.name, "/"))
		f.mount(b, s, on)
	}
}

// make adds the steps that make the file system with its subvolumes.
func (f *bcachefs) make(b *builder, on blockTarget) {
	argv := slices.Concat([]string{"bcachefs", "format"}, b.formatArgs["bcachefs_filesystems "+f.name], []string{"--uuid=" + f.uuid}, f.args)
	if f.passwordFile != "" {
		argv = append(argv, "--encrypted")
	}
	b.secret("format "+f.name+" with bcachefs", on.device, f.passwordFile, argv)
	b.step("show "+f.name+" to udev", on.device, "udevadm", "trigger", "--subsystem-match=block")
	b.settle(on.device)
	if f.passwordFile != "" {
		unlock := f.unlock(on)
		b.secret(unlock.Name, unlock.Device, unlock.Stdin, unlock.Argv)
	}
	if len(f.subs) == 0 {
		return
	}
	b.step("make a folder to mount "+f.name, on.device, "mkdir", "-p", scratch)
	b.step("mount "+f.name+" to make its subvolumes", on.device,
		append([]string{"mount", on.device, scratch, "-t", "bcachefs"}, flagArgs("-o", f.root.options)...)...)
	made := []string{scratch}
	for _, s := range f.subs {
		at := path.Join(scratch, s.name)
		made = append(made, at)
		b.parents(on, &made, at)
		b.step("make subvolume "+s.name+" on "+f.name, on.device, "bcachefs", "subvolume", "create", at)
	}

	b.step("unmount "+f.name, on.device, "umount", scratch)
}

// unlock returns the step that unlocks an encrypted file system.
func (f *bcachefs) unlock(on blockTarget) Step {
	return Step{Stage: StageMount, Name: "unlock " + f.name, Device: on.device, Stdin: f.passwordFile,
		Argv: []string{"bcachefs", "unlock", "-k", "session", on.device}}
}

// mount makes the mount point itself, since X-mount.mkdir does not work with bcachefs, according to disko. If the file
// system is kept, a missing subvolume is noticed only by this step.
func (f *bcachefs) mount(b *builder, s subvolume, on blockTarget) {
	var options []string
	for _, o := range s.options {
		if !slices.Contains(options, o) && o != "X-mount.mkdir" {
			options = append(options, o)
		}
	}
	at := path.Join(target, s.mountpoint)
	before := []Step{{Stage: StageMount, Name: "make folder " + s.mountpoint, Device: on.device, Argv: []string{"mkdir", "-p", at}}}
	if on.keep && f.passwordFile != "" {
		before = append([]Step{f.unlock(on)}, before...)
	}
	b.mountAfter("", s.mountpoint, "bcachefs", on.device, options, before...)
}
