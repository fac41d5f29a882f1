// Package images is the catalog of installer images: it finds, verifies and opens kernels and initrds.
//
// A catalog is one flat folder. A file whose name is 64 hex digits is content: the name is its SHA-256, and all images
// with this content share it. NAME.json is the record of an image; it is written last, and the image exists from then
// on. Files whose names begin with ".tmp-" are incomplete, and the next [Open] removes them.
//
// What an image needs for installing (sshd, and a stage 1 that takes the keys from the initrd) cannot be seen
// completely from outside; [Catalog.Add] checks what can be seen.
//
// The package imports internal/initrd, which reads and writes initrds, internal/boards, which knows which files boards
// load from a firmware tree, and internal/text. images/media, which makes boot media from the catalog, imports it.
package images

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"provision/internal/text"
)

// ErrNotFound means that the catalog has no image with this name.
var ErrNotFound = errors.New("no such image")

// Arch is a CPU architecture, by the name that nix and uname use. [ParseArch] converts other names.
type Arch string

// The architectures that can be netbooted.
const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

// ParseArch reads the name of an architecture as nix, uname, Debian or Go write it: "x86_64", "x86_64-linux", "amd64",
// "aarch64", "aarch64-linux", "arm64".
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
	Cmdline string `json:"cmdline"` // kernel command line, without initrd=, which the server adds
	// KernelParams are the operator's additions for every boot of this image.
	KernelParams []string `json:"kernel_params,omitempty"`

	Kernel File      `json:"kernel"`
	Initrd File      `json:"initrd"` // as it was added; [Contract.Tail] is appended for each boot
	Added  time.Time `json:"added"`

	From string `json:"from,omitempty"` // the source that it was added from; empty: single files
	// SHA256 are the digests that were given for its files, by file name.
	SHA256 map[string]string `json:"sha256,omitempty"`
	// Checked says how the files were verified: "digest given", "digest published beside it" (which detects damage; https
	// authenticates the publisher), "https", or "" for local files.
	Checked string      `json:"checked,omitempty"`
	Look    *Inspection `json:"look,omitempty"` // nil: it was added by an older version
}

// File is content in the catalog; see [Catalog.OpenFile].
type File struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Size   int64  `json:"size"`   // bytes
}

// checkName returns an error if name is not a valid name of an image.
func checkName(name string) error {
	if ok, _ := regexp.MatchString(`^[a-z0-9][a-z0-9._-]{0,63}$`, name); !ok {
		return fmt.Errorf("image name %q: use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit", name)
	}
	return nil
}

// notFound returns ErrNotFound with the name that was probably meant, or with all names that exist.
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
