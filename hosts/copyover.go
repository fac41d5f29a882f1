package hosts

// CopyOver is how a host's closure goes to its machine.
type CopyOver string

// The ways.
const (
	CopyAuto CopyOver = "auto" // over HTTP; over SSH if the machine cannot reach the server so
	CopyHTTP CopyOver = "http" // fetched from the server's binary cache: signed, not encrypted
	CopySSH  CopyOver = "ssh"  // all of it inside the pinned connection
)

// ParseCopyOver reads a way; empty is [CopyAuto].
func ParseCopyOver(s string) (CopyOver, error) {
	return choose("--copy-over", "a way to copy", s, CopyAuto, CopyAuto, CopyHTTP, CopySSH)
}
