package disko

import (
	"encoding/json"
	"regexp"
	"strconv"
)

type luks struct {
	name                   string
	passwordFile           string // its content without trailing newlines is the key
	keyFile                string // its bytes are the key
	keySize, keyOffset     int    // bytes; 0: not said
	discards, noWorkqueues bool
	formatArgs, openArgs   []string
	content                content
}

// Device mapper escapes other characters, so that the name would not be the file's in /dev/mapper.
var mapperName = regexp.MustCompile(`^[A-Za-z0-9#+.:=@_][A-Za-z0-9#+.:=@_-]{0,126}$`)

func parseLUKS(a *attrs) content {
	l := &luks{name: a.str("name"), passwordFile: a.file("passwordFile")}
	if !mapperName.MatchString(l.name) || l.name == "control" || l.name == "." || l.name == ".." {
		a.bad("name", "%q is not a name for /dev/mapper", l.name)
	}
	a.unique("luks name", l.name, a.at("name"))
	l.formatArgs, l.openArgs = a.words("extraFormatArgs"), a.words("extraOpenArgs")
	deprecated := a.file("keyFile")
	l.settings(a)
	// The order in which disko prefers them.
	switch {
	case l.keyFile != "":
		l.passwordFile = ""
	case l.passwordFile == "":
		l.keyFile = deprecated
	}
	if ask, _ := take[bool](a, "askPassword"); ask || l.passwordFile == "" && l.keyFile == "" {
		a.bad("askPassword", "a passphrase cannot be asked for; set passwordFile or settings.keyFile")
	}
	// Whether stage 1 opens it is for NixOS.
	a.ignore("initrdUnlock")
	a.off("add further keys after the first boot", "additionalKeyFiles")
	a.off("enrol it after the first boot", "enrollFido2", "enrollRecovery")
	a.ignore("extraFido2EnrollArgs")
	l.content = a.content("/dev/mapper/" + l.name)
	return l
}

// settings are boot.initrd.luks.devices.NAME of NixOS. disko makes arguments of five of
// them; the others are for the installed system.
func (l *luks) settings(a *attrs) {
	raw, _ := take[map[string]json.RawMessage](a, "settings")
	s := &attrs{reader: a.reader, path: a.at("settings"), raw: raw, unread: map[string]bool{}}
	l.keyFile = s.file("keyFile")
	for name, to := range map[string]*int{"keyFileSize": &l.keySize, "keyFileOffset": &l.keyOffset} {
		if *to, _ = take[int](s, name); *to < 0 {
			s.bad(name, "%d is negative", *to)
		}
	}
	l.discards, _ = take[bool](s, "allowDiscards")
	l.noWorkqueues, _ = take[bool](s, "bypassWorkqueues")
	// The system would look for the header elsewhere than disko puts it.
	s.off("keep the header on the device", "header")
}

// minimum is LUKS2's header of 16 MiB and what is inside.
func (l *luks) minimum() int64 {
	if l.content == nil {
		return 17 * mib
	}
	return 16*mib + l.content.minimum()
}

func (l *luks) keyArgs() []string {
	file := l.keyFile
	if l.passwordFile != "" {
		file = "-"
	}
	args := []string{"--key-file", file}
	if l.keySize > 0 {
		args = append(args, "--keyfile-size", strconv.Itoa(l.keySize))
	}
	if l.keyOffset > 0 {
		args = append(args, "--keyfile-offset", strconv.Itoa(l.keyOffset))
	}
	return args
}

func (l *luks) create(b *builder, on place) {
	argv := append([]string{"cryptsetup", "-q", "luksFormat", on.device}, l.formatArgs...)
	b.secret("format "+on.name+" as LUKS", on.device, l.passwordFile, append(argv, l.keyArgs()...))

	argv = []string{"cryptsetup", "open", on.device, l.name}
	if l.discards {
		argv = append(argv, "--allow-discards")
	}
	if l.noWorkqueues {
		argv = append(argv, "--perf-no_read_workqueue", "--perf-no_write_workqueue")
	}
	argv = append(append(argv, l.openArgs...), l.keyArgs()...)
	b.secret("open "+on.name+" as "+l.name, on.device, l.passwordFile, append(argv, "--persistent"))
	if l.content != nil {
		l.content.create(b, l.inside())
	}
}

func (l *luks) mount(m *mounts, on place) {
	m.crypt(l.name, on.device, l.passwordFile, l.keyFile)
	if l.content != nil {
		l.content.mount(m, l.inside())
	}
}

func (l *luks) inside() place { return place{device: "/dev/mapper/" + l.name, name: l.name} }
