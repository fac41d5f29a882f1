package hosts

import "cmp"

// CopyOver is how a host's closure goes to its machine.
type CopyOver string

// The ways.
const (
	CopyAuto CopyOver = "auto" // over HTTP; over SSH if the machine cannot reach the server so
	CopyHTTP CopyOver = "http" // fetched from the server's binary cache: signed, not encrypted
	CopySSH  CopyOver = "ssh"  // all of it inside the pinned connection
)

// Words are all ways.
func (c *CopyOver) Words() []string { return stringsOf(CopyAuto, CopyHTTP, CopySSH) }

// UnmarshalText reads a way; empty is [CopyAuto].
func (c *CopyOver) UnmarshalText(text []byte) error {
	return choose(c, "--copy-over", "a way to copy", text, c.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (c CopyOver) MarshalText() ([]byte, error) { return []byte(cmp.Or(c, CopyAuto)), nil }
