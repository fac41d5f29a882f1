package disko

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// luks is a LUKS container.
type luks struct {
	name                   string
	passwordFile           string // its content without trailing newlines is the key
	keyFile                string // its bytes are the key
	keySize, keyOffset     int    // in bytes; 0: not set
	discards, noWorkqueues bool
	triesTPM2              bool // the settings make the installed system try the TPM
	formatArgs, openArgs   []string
	moreKeys               []string // files whose bytes are further keys
	content                deviceContent
}

// mapperName matches names for which the file in /dev/mapper has the same name. Device mapper escapes other characters.
var mapperName = regexp.MustCompile(`^[A-Za-z0-9#+.:=@_][A-Za-z0-9#+.:=@_-]{0,126}$`)

func parseLUKS(a *attrs) deviceContent {
	l := &luks{name: a.str("name"), passwordFile: a.file("passwordFile")}
	if !mapperName.MatchString(l.name) || l.name == "control" || l.name == "." || l.name == ".." {
		a.bad("name", "%q is not a name for /dev/mapper", l.name)
	}
	a.unique("luks name", l.name, a.at("name"))
	deprecated := a.file("keyFile")
	l.formatArgs, l.openArgs = a.formatWords("extraFormatArgs"), a.stringList("extraOpenArgs")
	l.settings(a)
	a.borrow("extraFormatArgs", l.formatArgs) // openArgs name the same devices

	// The order in which disko prefers the sources of the key.
	ask := a.flag("askPassword")
	switch {
	case l.keyFile != "":
		l.passwordFile = ""
	case ask || l.passwordFile == "" && deprecated == "":
		l.passwordFile = passphrase(l.name)
	case l.passwordFile == "":
		l.keyFile = deprecated
	}

	l.moreKeys = a.list("additionalKeyFiles")
	for _, file := range l.moreKeys {
		a.absolute("additionalKeyFiles", file)
	}

	// NixOS decides whether stage 1 unlocks it.
	a.ignore("initrdUnlock")
	for _, name := range []string{"enrollFido2", "enrollRecovery"} {
		if a.flag(name) {
			a.bad(name, "needs someone at the machine, which is not supported; enrol it after the first boot")
		}
	}

	a.ignore("extraFido2EnrollArgs")
	l.content = a.volume("/dev/mapper/" + l.name)
	return l
}

// passphrase returns the path to which a passphrase is delivered where disko would ask for it. As nobody is at the
// machine, the operator gives it when enrolling.
func passphrase(name string) string { return "/run/provision/passphrase/" + name }

// settings reads the settings, which are boot.initrd.luks.devices.NAME of NixOS. disko turns five of them into
// arguments; the others are for the installed system.
func (l *luks) settings(a *attrs) {
	raw, _ := take[map[string]json.RawMessage](a, "settings")
	s := &attrs{reader: a.reader, path: a.at("settings"), raw: raw, unread: map[string]bool{}}
	l.keyFile = s.file("keyFile")
	for name, to := range map[string]*int{"keyFileSize": &l.keySize, "keyFileOffset": &l.keyOffset} {
		if *to, _ = take[int](s, name); *to < 0 {
			s.bad(name, "%d is negative", *to)
		}
	}

	l.discards = s.flag("allowDiscards")
	l.noWorkqueues = s.flag("bypassWorkqueues")
	var options []string
	if json.Unmarshal(s.raw["crypttabExtraOpts"], &options) == nil { // other types are for NixOS to reject
		l.triesTPM2 = slices.ContainsFunc(options, func(o string) bool { return strings.Contains(o, "tpm2-device=") })
	}
	if header := s.file("header"); header != "" {
		// NixOS looks for the header there, but disko does not turn it into an argument.
		s.checkHeader("header", header)
		l.formatArgs, l.openArgs = withHeader(l.formatArgs, header), withHeader(l.openArgs, header)
	}
}

// withHeader adds --header to arguments that do not have it.
func withHeader(args []string, file string) []string {
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--header") }) {
		return args
	}
	return append(args, "--header="+file)
}

// checkHeader records an error if a detached header is not on a device. borrow checks that such a device is in the
// layout.
func (a *attrs) checkHeader(name, file string) {
	if !strings.HasPrefix(file, "/dev/") {
		a.bad(name, "a header in the file %q would be lost with the installer; put it on a partition without content", file)
	}
}

// formatWords reads arguments of luksFormat.
func (a *attrs) formatWords(name string) []string {
	args := a.stringList(name)
	for i, arg := range args {
		option, file, ok := strings.Cut(arg, "=")
		if !ok && i+1 < len(args) {
			file = args[i+1]
		}
		if option == "--header" {
			a.checkHeader(name, file)
		}
	}
	return args
}

// offset returns the smallest offset of the data in bytes: 16 MiB, the size of a LUKS2 header, or 0 if an argument
// could change it.
func (l *luks) offset() int64 {
	for _, arg := range l.formatArgs {
		for _, other := range []string{"--type", "-M", "--header", "--offset", "-o", "--luks2-", "--align-payload"} {
			if strings.HasPrefix(arg, other) {
				return 0
			}
		}
	}
	return 16 * mib
}

func (l *luks) minimum() int64 {
	if l.content == nil {
		return l.offset()
	}
	return l.offset() + l.content.minimum()
}

// keyArgs returns the arguments by which cryptsetup gets the key.
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

// fill makes or opens the container, and fills it.
func (l *luks) fill(b *builder, on blockTarget) {
	inside := blockTarget{device: "/dev/mapper/" + l.name, name: l.name, at: on.at}
	if on.size > 0 {
		inside.size, inside.sector = max(0, on.size-l.offset()), on.sector
	}
	if l.missing(b, on) {
		l.format(b, on)
	} else {
		inside.keep, inside.found = true, l.keepOpen(b, on)
	}

	b.keys = append(b.keys, l.passwordFile, l.keyFile)
	b.typed = append(b.typed, l.passwordFile)
	b.system.LUKS = append(b.system.LUKS, Unlocked{Name: l.name, Device: on.device, Discards: l.discards})
	b.containers = append(b.containers, l.container(b, on))
	b.close("close "+l.name, on.device, "cryptsetup", "close", l.name)
	b.places["/dev/mapper/"+l.name] = inside
	b.fill(l.content, inside)
}

// missing reports whether the container has to be made. If its header is on another device, the data look like random
// bytes, so an existing device without a header is an error: it might hold data.
func (l *luks) missing(b *builder, on blockTarget) bool {
	header := l.header()
	if header == "" || !on.keep {
		return b.make(l, on, "crypto_LUKS")
	}
	head := b.places[header]
	if on.found != nil && (!head.keep || head.found != nil && head.found.holds() != "crypto_LUKS") {
		b.errorf(on.at, "the LUKS header of %s is missing on %s; whether %s holds data cannot be told", on.device, head.device, on.device)
	}
	return false
}

// header returns the layout's name of the device that holds a detached header; empty if the header is with the data.
func (l *luks) header() string {
	for i, arg := range l.formatArgs {
		if arg == "--header" && i+1 < len(l.formatArgs) {
			return l.formatArgs[i+1]
		}
		if file, ok := strings.CutPrefix(arg, "--header="); ok {
			return file
		}
	}
	return ""
}

// format makes the container with all its keys, and opens it.
func (l *luks) format(b *builder, on blockTarget) {
	keys := l.keyArgs()
	argv := append([]string{"cryptsetup", "-q", "luksFormat", on.device}, b.overwrite(l.formatArgs)...)
	b.secret("format "+on.name+" as LUKS", on.device, l.passwordFile, append(argv, keys...))
	b.secret("open "+on.name+" as "+l.name, on.device, l.passwordFile, append(l.open(b, on), "--persistent"))
	for _, file := range l.moreKeys {
		argv := append([]string{"cryptsetup", "luksAddKey", on.device, file}, keys...)
		b.secret("add the key "+file+" to "+on.name, on.device, l.passwordFile, argv)
	}
	b.keys = append(b.keys, l.moreKeys...)
	b.names = append(b.names, uniqueName{"crypt", l.name})
}

// open returns the command that opens the container.
func (l *luks) open(b *builder, on blockTarget) []string {
	argv := []string{"cryptsetup", "open", on.device, l.name}
	if l.discards {
		argv = append(argv, "--allow-discards")
	}
	if l.noWorkqueues {
		argv = append(argv, "--perf-no_read_workqueue", "--perf-no_write_workqueue")
	}
	return append(append(argv, b.resolve(l.openArgs)...), l.keyArgs()...)
}

// keepOpen returns what is inside an existing container; nil if it has to be opened first. Opening it shows whether the
// key is right; other keys of the container are left alone.
func (l *luks) keepOpen(b *builder, on blockTarget) *placedDevice {
	if on.found != nil {
		if l.header() == "" && on.found.holds() != "crypto_LUKS" {
			return nil // missing has reported an error
		}
		if c := b.child(on.found, "crypt"); c != nil {
			if c.Name != l.name {
				b.errorf(on.at, "%s is open as %s instead of %s; close it", on.device, c.Name, l.name)
			}
			return c
		}
	}

	b.names = append(b.names, uniqueName{"crypt", l.name})
	b.open(on, "open "+on.name+" as "+l.name, on.device, l.passwordFile, l.open(b, on)...)
	return nil
}
