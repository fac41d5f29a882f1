package hosts

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// BuildOn is where a host's system is built.
type BuildOn string

// The places to build.
const (
	BuildAuto   BuildOn = "auto"   // on the server if it can build for the host, else on the target
	BuildServer BuildOn = "server" // on the server, which may use its remote builders
	BuildTarget BuildOn = "target" // on the target, into its new file systems
)

// Words returns all places to build, for error messages and completion.
func (b *BuildOn) Words() []string { return stringsOf(BuildServer, BuildTarget, BuildAuto) }

// UnmarshalText reads a place to build; the empty text means [BuildAuto].
func (b *BuildOn) UnmarshalText(text []byte) error {
	return choose(b, "--build-on", "a place to build", text, b.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (b BuildOn) MarshalText() ([]byte, error) { return []byte(cmp.Or(b, BuildAuto)), nil }

// checkBuild returns an error if the choices about the build contradict each other.
func (c Choices) checkBuild() error {
	switch {
	case c.StorePath != "" && c.BuildOn == BuildTarget:
		return errors.New("--store-path is built already: leave out --build-on target")
	case c.StorePath != "" && c.Hardware.Tool != "":
		return errors.New("--store-path is built already, so that --generate-hardware-config would come too late: " +
			"leave out one of them")
	case c.StorePath != "" && !strings.HasPrefix(c.StorePath, "/"):
		return fmt.Errorf("--store-path %s: write an absolute path", c.StorePath)
	case c.Disko == Script && c.BuildOn == BuildTarget:
		return errors.New("--disko script needs the flake's script built before there is a disk to build on: leave " +
			"out --build-on target")
	}
	return nil
}
