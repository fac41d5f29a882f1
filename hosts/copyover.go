package hosts

import "cmp"

// CopyOver is how a host's closure is copied to its machine.
type CopyOver string

// The ways to copy.
const (
	CopyAuto CopyOver = "auto" // over HTTP, or over SSH if the machine cannot reach the server by HTTP
	CopyHTTP CopyOver = "http" // fetched from the server's binary cache: signed, not encrypted
	CopySSH  CopyOver = "ssh"  // everything inside the SSH connection with the pinned key
)

// Words returns all ways to copy, for error messages and completion.
func (c *CopyOver) Words() []string { return stringsOf(CopyAuto, CopyHTTP, CopySSH) }

// UnmarshalText reads a way to copy; the empty text means [CopyAuto].
func (c *CopyOver) UnmarshalText(text []byte) error {
	return choose(c, "--copy-over", "a way to copy", text, c.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (c CopyOver) MarshalText() ([]byte, error) { return []byte(cmp.Or(c, CopyAuto)), nil }
