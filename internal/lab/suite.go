package lab

import (
	"cmp"
	"fmt"
	"os"
)

// A Suite is the Debian release that guests are made of, by its name. The oldest tools and the newest that provision
// finds on installers are those of the first and of the second.
type Suite string

const (
	Bookworm Suite = "bookworm" // Debian 12: kernel 6.1, nix 2.8
	Trixie   Suite = "trixie"   // Debian 13: kernel 6.12, nix 2.26, as NixOS 25.05 and later have them
	Sid      Suite = "sid"      // what comes next; it changes every day, so no guest relies on it
)

// CurrentSuite is what guests are made of in this process: $SUITE, or trixie.
func CurrentSuite() (Suite, error) {
	suite := Suite(cmp.Or(os.Getenv("SUITE"), string(Trixie)))
	switch suite {
	case Bookworm, Trixie, Sid:
		return suite, nil
	}
	return "", fmt.Errorf("SUITE is %q: guests are made of %s, %s or %s", suite, Bookworm, Trixie, Sid)
}
