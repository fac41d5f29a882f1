package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// piSuite is where the firmware comes from: bookworm's U-Boot knows no Raspberry Pi 5.
const piSuite = "trixie"

// PiFirmware returns Debian packages that hold what Raspberry Pis start with: raspi-firmware (Broadcom's licence is in
// it) and u-boot-rpi from the folder cache, and the device trees in the kernel of arm64 guests. Debian 12's
// kernel is older than the Pi 5, for which it has none.
func PiFirmware(ctx context.Context, cache string, log io.Writer) ([]string, error) {
	name, err := key([]string{mirror, piSuite, "pi 1"})
	if err != nil {
		return nil, err
	}
	dir, err := keep(ctx, cache, "pi-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: downloading the firmware of Raspberry Pis from %s\n", mirror)
		return downloadPi(ctx, dir)
	})
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(dir + "/*.deb")
	if err != nil || len(files) != 2 {
		return nil, fmt.Errorf("want two packages in %s, found %v", dir, files)
	}
	suite, err := CurrentSuite()
	if err != nil {
		return nil, err
	}
	guests, err := debs(ctx, cache, suite, AArch64, log)
	if err != nil {
		return nil, err
	}
	for _, d := range guests {
		if strings.HasPrefix(d.Name, "linux-image-") && d.Name != "linux-image-arm64" {
			files = append(files, d.File)
		}
	}
	return files, nil
}

func downloadPi(ctx context.Context, dir string) error {
	apt := filepath.Join(dir, "apt")
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "etc/parts"} {
		if err := os.MkdirAll(filepath.Join(apt, sub), 0o755); err != nil {
			return err
		}
	}
	sources := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main non-free-firmware\n", mirror, piSuite)
	if err := os.WriteFile(apt+"/etc/sources.list", []byte(sources), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(apt+"/status", nil, 0o644); err != nil {
		return err
	}
	options := aptOptions(apt, AArch64)
	if _, err := outside(ctx, "apt-get", append(options, "update")...); err != nil {
		return err
	}
	// It downloads into the folder in which it runs.
	fetch := append([]string{"-c", `cd "$0" && exec apt-get "$@"`, dir}, append(options, "download", "raspi-firmware", "u-boot-rpi")...)
	if _, err := outside(ctx, "sh", fetch...); err != nil {
		return err
	}
	return os.RemoveAll(apt)
}
