package disko

import (
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tpm2Script passes the key to systemd-cryptenroll. It is constant; only its arguments vary.
//
//go:embed tpm2.sh
var tpm2Script string

// Container is a LUKS container that a TPM 2.0 may be able to open.
type Container struct {
	Name   string // below /dev/mapper
	Device string // the device with its header
	// Tries reports whether the layout's settings make the installed system try the TPM. If not, other parts of its
	// configuration may.
	Tries bool

	KeyFile string
	Binary  bool // the file's bytes are the key; false: without the newlines at its end
	// Offset and Size say where the key is in that, in bytes; size 0: up to the end.
	Offset, Size int

	luks1 bool
	at    string
}

// Key returns the container's key, given the content of its key file.
func (c Container) Key(content []byte) []byte {
	if !c.Binary {
		content = bytes.TrimRight(content, "\n")
	}
	content = content[min(c.Offset, len(content)):]
	if c.Size > 0 {
		content = content[:min(c.Size, len(content))]
	}
	return content
}

// Enroll returns the step that makes the machine's TPM 2.0 open the container as long as the PCRs ("0+7") have the
// values that they have when the step runs. It replaces an earlier TPM enrolment; other keys stay. The key files must
// be present.
func (c Container) Enroll(pcrs string) Step {
	s := Step{Stage: StageMount, Name: "make the TPM open " + c.Name, Device: c.Device}
	file := ""
	if c.Binary {
		file = c.KeyFile
	} else {
		s.Stdin = c.KeyFile
	}
	s.Argv = []string{"bash", "-c", tpm2Script, "tpm2", c.Device, pcrs, file, strconv.Itoa(c.Offset), strconv.Itoa(c.Size)}
	return s
}

// TPM2 returns the layout's LUKS containers, all of which a TPM 2.0 can open, or an error that says why it cannot.
func (p *Plan) TPM2() ([]Container, error) {
	var errs []error
	for _, c := range p.containers {
		if c.luks1 {
			errs = append(errs, fmt.Errorf("%s: %s is LUKS1, which has no place for a TPM; make it LUKS2", c.at, c.Name))
		}
	}
	if len(p.containers) == 0 {
		errs = append(errs, errors.New("the layout has no LUKS container for a TPM to open"))
	}
	return slices.Clone(p.containers), errors.Join(errs...)
}

// container returns the LUKS container as TPM enrolment needs it.
func (l *luks) container(b *builder, on blockTarget) Container {
	head := on
	if name := l.header(); name != "" {
		head = b.places[name]
	}
	c := Container{Name: l.name, Device: head.device, Tries: l.triesTPM2, at: on.at,
		KeyFile: cmp.Or(l.passwordFile, l.keyFile), Binary: l.passwordFile == "", Offset: l.keyOffset, Size: l.keySize,
		luks1: slices.ContainsFunc(l.formatArgs, func(arg string) bool { return strings.HasSuffix(arg, "luks1") })}
	if head.keep && head.found != nil && head.found.holds() == "crypto_LUKS" {
		c.luks1 = head.found.FSVersion == "1"
	}
	return c
}
