package hosts

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// BuildOn is where a host's system is built.
type BuildOn string

// The places.
const (
	BuildAuto   BuildOn = "auto"   // on the server if that can build for the host, else on the target
	BuildServer BuildOn = "server" // with its remote builders
	BuildTarget BuildOn = "target" // into the new file systems
)

// Words are all places.
func (b *BuildOn) Words() []string { return stringsOf(BuildServer, BuildTarget, BuildAuto) }

// UnmarshalText reads a place; empty is [BuildAuto].
func (b *BuildOn) UnmarshalText(text []byte) error {
	return choose(b, "--build-on", "a place to build", text, b.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (b BuildOn) MarshalText() ([]byte, error) { return []byte(cmp.Or(b, BuildAuto)), nil }

// checkBuild refuses what cannot be had together.
func (c Choices) checkBuild() error {
	switch {
	case c.StorePath != "" && c.BuildOn == BuildTarget:
		return errors.New("--store-path is built already: leave out --build-on target")
	case c.StorePath != "" && c.Hardware.Tool != "":
		return errors.New("--store-path is built already, so that --generate-hardware-config would come too late: leave out one of them")
	case c.StorePath != "" && !strings.HasPrefix(c.StorePath, "/"):
		return fmt.Errorf("--store-path %s: write an absolute path", c.StorePath)
	case c.Disko == Script && c.BuildOn == BuildTarget:
		return errors.New("--disko script needs the flake's script built before there is a disk to build on: leave out --build-on target")
	}
	return nil
}
