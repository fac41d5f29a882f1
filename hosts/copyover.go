package hosts

import (
	"fmt"
	"slices"
)

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
	all := []CopyOver{CopyAuto, CopyHTTP, CopySSH}
	if s == "" {
		return CopyAuto, nil
	}
	if !slices.Contains(all, CopyOver(s)) {
		return "", fmt.Errorf("--copy-over %s: not a way to copy; choose one of %v", s, all)
	}
	return CopyOver(s), nil
}
