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

// tpm2Script gives the key to systemd-cryptenroll. It is constant; what differs are its arguments.
//
//go:embed tpm2.sh
var tpm2Script string

// Container is a LUKS2 container that a TPM2 can be made to open.
type Container struct {
	Name   string // below /dev/mapper
	Device string // has its header
	// Tries tells whether the layout's settings let the installed system try the TPM. Where they
	// do not, the rest of its configuration may.
	Tries bool

	KeyFile string
	Binary  bool // the file's bytes are the key; else they are, but for newlines at its end
	// Offset and Size are where in that the key is, bytes; size 0: all that follows.
	Offset, Size int

	luks1 bool
	at    string
}

// Key returns the part of a key file's content that is the container's key.
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

// Enroll is the step that makes the machine's TPM2 open the container while the PCRs ("0+7") are
// as they are when it runs. It takes the place of an earlier one; other keys stay. The key files
// must be there.
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

// TPM2 returns the layout's containers, each of which a TPM2 can be made to open, or why that
// is not so.
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

// container is the LUKS container as a TPM2 finds it.
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
