package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ParseDigest reads "FILE=HEX", or "HEX" for the only file (name is empty then).
// The digest may have "sha256:" before it.
func ParseDigest(s string) (name, digest string, err error) {
	name, digest, found := strings.Cut(s, "=")
	if !found {
		name, digest = "", s
	}
	digest = strings.ToLower(strings.TrimPrefix(digest, "sha256:"))
	if !isDigest(digest) || found && name == "" {
		return "", "", fmt.Errorf("digest %q: write FILE=HEX, or HEX where there is one file: 64 hex digits, as sha256sum prints", s)
	}
	return name, digest, nil
}

// digests are those that files must have, as they were given.
type digests struct {
	want map[string]string // by file name; "" is any
	used map[string]bool
}

func newDigests(want map[string]string) (*digests, error) {
	for name, digest := range want {
		if !isDigest(digest) {
			return nil, fmt.Errorf("sha256 of %q: %q is not 64 lower-case hex digits", name, digest)
		}
	}
	return &digests{want, map[string]bool{}}, nil
}

// of returns the digest that the file of that name must have.
func (d *digests) of(name string) (digest string, given bool) {
	for _, key := range []string{name, ""} {
		if digest, given = d.want[key]; given {
			d.used[key] = true
			return digest, true
		}
	}
	return "", false
}

// check checks a file that is here, if a digest was given for its name.
func (d *digests) check(ctx context.Context, file string) error {
	want, given := d.of(filepath.Base(file))
	if !given {
		return nil
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &meter{ctx: ctx, r: in}); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s: its sha256 is %s, and is to be %s as given: it is not the file that was meant, or is damaged", file, got, want)
	}
	return nil
}

// named is an error if a digest is for the only file: there are several.
func (d *digests) named() error {
	if _, any := d.want[""]; any {
		return errors.New("sha256: the image has several files: give each digest with its file's name, FILE=HEX")
	}
	return nil
}

// unused is an error if a digest was for none of the files: it would seem to
// have been checked.
func (d *digests) unused() error {
	for _, name := range slices.Sorted(maps.Keys(d.want)) {
		if !d.used[name] {
			return fmt.Errorf("sha256 of %q: the image has no file of that name", name)
		}
	}
	return nil
}

// findDigest finds the digest of the file of that name in what sha256sum
// printed, with --tag or without; in a text that holds but one digest, with
// alone, whatever name it has there. "" is none.
func findDigest(text, name string, alone bool) string {
	found, n := "", 0
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		var digest, file string
		switch {
		case len(w) == 1 && alone:
			digest = w[0]
		case len(w) == 2: // "HEX  file", "HEX *file"
			digest, file = w[0], strings.TrimPrefix(w[1], "*")
		case len(w) == 4 && w[0] == "SHA256" && w[2] == "=": // "SHA256 (file) = HEX"
			digest, file = w[3], strings.TrimSuffix(strings.TrimPrefix(w[1], "("), ")")
		}

		if digest = strings.ToLower(digest); !isDigest(digest) {
			continue
		}
		if filepath.Base(file) == name {
			return digest
		}
		found, n = digest, n+1
	}

	if alone && n == 1 {
		return found
	}
	return ""
}
