package hosts

import (
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

// ParseBuildOn reads a place; empty is [BuildAuto].
func ParseBuildOn(s string) (BuildOn, error) {
	return choose("--build-on", "a place to build", s, BuildAuto, BuildServer, BuildTarget, BuildAuto)
}

// CheckBuild refuses what cannot be had together.
func (o Options) CheckBuild() error {
	switch {
	case o.StorePath != "" && o.BuildOn == BuildTarget:
		return errors.New("--store-path is built already: leave out --build-on target")
	case o.StorePath != "" && o.Hardware.Tool != "":
		return errors.New("--store-path is built already, so that --generate-hardware-config would come too late: leave out one of them")
	case o.StorePath != "" && !strings.HasPrefix(o.StorePath, "/"):
		return fmt.Errorf("--store-path %s: write an absolute path", o.StorePath)
	case o.Disko == Script && o.BuildOn == BuildTarget:
		return errors.New("--disko script needs the flake's script built before there is a disk to build on: leave out --build-on target")
	}
	return nil
}
