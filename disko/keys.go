package disko

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// CheckKey returns an error if key cannot be the content of one of [Plan.KeyFiles]: if it is empty, or a passphrase
// that nobody can type when the host starts. Newlines at its end are not part of it.
func (p *Plan) CheckKey(path string, key []byte) error {
	text := bytes.TrimRight(key, "\n")
	switch {
	case len(bytes.TrimRight(text, "\r\n")) == 0:
		return errors.New("it is empty")
	case !slices.Contains(p.typed, path):
		return nil
	case bytes.IndexByte(text, 0) >= 0:
		return errors.New("it is a passphrase, and nobody can type its NUL bytes: is the file in UTF-16? " +
			"Write it in UTF-8, or have the layout read it as a key (settings.keyFile)")
	case bytes.HasPrefix(text, []byte("\uFEFF")):
		return errors.New("it is a passphrase, and nobody can type the byte order mark at its start: save the file " +
			"without one")
	case bytes.Contains(text, []byte("\r")):
		return errors.New("it is a passphrase, and nobody can type the carriage return in it, of a file with " +
			"Windows line ends: " +
			"take that out, as `tr -d '\\r'` does")
	case bytes.Contains(text, []byte("\n")):
		return fmt.Errorf("it is a passphrase, and has %d lines, of which nobody can type more than one: give a "+
			"file of one line, "+
			"or have the layout read it as a key (settings.keyFile)", 1+bytes.Count(text, []byte("\n")))
	}

	return nil
}
