// Package images is the catalog of installer images: kernels and initrds,
// found, verified, opened.
//
// A catalog is one flat folder. A file named by 64 hex digits is content, named
// by its SHA-256 and shared by all images that hold it; NAME.json is the record
// of one image, written last and so the moment at which the image exists; what
// starts with ".tmp-" is half done and swept away by the next [Open].
//
// What makes an image fit for installing (sshd, the keys taken out of the
// initrd) cannot be seen from outside; what can be seen is checked by
// [Catalog.Add].
//
// Of ours it imports internal/initrd, which reads and writes initrds, and
// internal/boards, which knows what boards load of a tree of firmware, and
// internal/text.
// images/media, which makes sticks and CDs of what is in the catalog, imports it.
package images

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"provision/internal/text"
)

// ErrNotFound says that the catalog has no image of that name.
var ErrNotFound = errors.New("no such image")

// Arch is a CPU architecture, by the name that nix and uname use; [ParseArch]
// makes it from what people write.
type Arch string

// The architectures that can be netbooted.
const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

// ParseArch reads an architecture in nix's, uname's, Debian's or Go's words:
// "x86_64", "x86_64-linux", "amd64", "aarch64", "aarch64-linux", "arm64".
func ParseArch(s string) (Arch, error) {
	switch strings.TrimSuffix(s, "-linux") {
	case "x86_64", "amd64":
		return X86_64, nil
	case "aarch64", "arm64":
		return AArch64, nil
	}
	return "", fmt.Errorf("unknown architecture %q: it is x86_64 or aarch64", s)
}

// Image is one installer: what a machine needs to boot it.
type Image struct {
	Name    string `json:"name"`
	Arch    Arch   `json:"arch"`
	Cmdline string `json:"cmdline"` // without initrd=, which the server adds
	// KernelParams are the operator's, for every boot of this image.
	KernelParams []string `json:"kernel_params,omitempty"`

	Kernel File      `json:"kernel"`
	Initrd File      `json:"initrd"` // as added; see Contract.Tail for what is appended per boot
	Added  time.Time `json:"added"`

	From string `json:"from,omitempty"` // what it was added from; empty: single files
	// SHA256 are the digests that were given for it, by file names.
	SHA256 map[string]string `json:"sha256,omitempty"`
	// Checked says how what was added was known to be right: "digest given",
	// "digest published beside it" (which tells damage; the publisher is known by
	// https), "https", or "" for what was here already.
	Checked string      `json:"checked,omitempty"`
	Look    *Inspection `json:"look,omitempty"` // nil: added by an older version
}

// File is content in the catalog; see [Catalog.OpenFile].
type File struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Size   int64  `json:"size"`   // bytes
}

func checkName(name string) error {
	if ok, _ := regexp.MatchString(`^[a-z0-9][a-z0-9._-]{0,63}$`, name); !ok {
		return fmt.Errorf("image name %q: use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit", name)
	}
	return nil
}

// notFound is ErrNotFound, with the name that was probably meant, or all there are.
func notFound(name string, images []Image) error {
	var names []string
	for _, img := range images {
		names = append(names, img.Name)
	}
	best := text.Nearest(name, names)
	switch {
	case best != "":
		return fmt.Errorf("%w: %q; did you mean %q?", ErrNotFound, name, best)
	case len(names) > 0:
		return fmt.Errorf("%w: %q; there are %s", ErrNotFound, name, strings.Join(names, ", "))
	}
	return fmt.Errorf("%w: %q; there are none yet, add one with: provision images add", ErrNotFound, name)
}
