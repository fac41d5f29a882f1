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

// ParseDigest reads "FILE=HEX", or "HEX" for an image with only one file (name is empty then). The digest may begin
// with "sha256:". It is returned in lower case.
func ParseDigest(s string) (name, digest string, err error) {
	name, digest, found := strings.Cut(s, "=")
	if !found {
		name, digest = "", s
	}
	digest = strings.ToLower(strings.TrimPrefix(digest, "sha256:"))
	if !isDigest(digest) || found && name == "" {
		return "", "", fmt.Errorf("digest %q: write FILE=HEX, or HEX where there is one file: 64 hex digits, as "+
			"sha256sum prints", s)
	}
	return name, digest, nil
}

// digests are the SHA-256 digests that the files must have.
type digests struct {
	want map[string]string // in hex, by file name; "" means any file
	used map[string]bool   // which of the names were looked up
}

// newDigests checks the form of the digests.
func newDigests(want map[string]string) (*digests, error) {
	for name, digest := range want {
		if !isDigest(digest) {
			return nil, fmt.Errorf("sha256 of %q: %q is not 64 lower-case hex digits", name, digest)
		}
	}
	return &digests{want, map[string]bool{}}, nil
}

// of returns the digest that the file with this name must have, and marks it as used.
func (d *digests) of(name string) (digest string, given bool) {
	for _, key := range []string{name, ""} {
		if digest, given = d.want[key]; given {
			d.used[key] = true
			return digest, true
		}
	}
	return "", false
}

// check compares a local file with the digest that was given for its name, if one was.
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
		return fmt.Errorf("%s: its sha256 is %s, and is to be %s as given: it is not the file that was meant, or "+
			"is damaged", file, got, want)
	}
	return nil
}

// named returns an error if a digest was given without a name, although there are several files.
func (d *digests) named() error {
	if _, any := d.want[""]; any {
		return errors.New("sha256: the image has several files: give each digest with its file's name, FILE=HEX")
	}
	return nil
}

// unused returns an error if a digest was given for a name that no file has. Otherwise it would seem to have been
// checked.
func (d *digests) unused() error {
	for _, name := range slices.Sorted(maps.Keys(d.want)) {
		if !d.used[name] {
			return fmt.Errorf("sha256 of %q: the image has no file of that name", name)
		}
	}
	return nil
}

// findDigest returns the digest of the file with this name from the output of sha256sum, with or without --tag. With
// alone, if the text has only one digest, that is returned whatever name it has. It returns "" if there is none.
func findDigest(text, name string, alone bool) string {
	found, n := "", 0
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		var digest, file string
		switch {
		case len(w) == 1 && alone:
			digest = w[0]
		case len(w) == 2: // "HEX  FILE" or "HEX *FILE"
			digest, file = w[0], strings.TrimPrefix(w[1], "*")
		case len(w) == 4 && w[0] == "SHA256" && w[2] == "=": // "SHA256 (FILE) = HEX"
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
