package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// withoutTPM2 is what can be done in any case.
const withoutTPM2 = "or enroll the host again without --tpm2 (reinstall: with --tpm2=off)"

// cryptenroll says what on the machine keeps its TPM2 from opening disks, and else whether
// systemd-cryptenroll takes any key (binary), or only one that an environment can hold.
func cryptenroll(ctx context.Context, s *session) (binary bool, err error) {
	// Listing needs the tool, the libraries that it loads, and the chip's driver. TPM 1.2 does not show.
	const script = `modprobe -a tpm_crb tpm_tis >/dev/null 2>&1
command -v systemd-cryptenroll >/dev/null || { echo none; exit; }
systemd-cryptenroll --tpm2-device=list && systemd-cryptenroll --help`
	out, err := s.run(ctx, nil, "sh", "-c", script)
	switch said := string(out); {
	case errors.Is(err, errLost) || ctx.Err() != nil:
		return false, err
	case err != nil:
		return false, fmt.Errorf("--tpm2: the installer image's systemd-cryptenroll does not work: choose another "+
			"--image, %s: %w", withoutTPM2, err)
	case said == "none\n":
		return false, fmt.Errorf("--tpm2: the installer image has no systemd-cryptenroll: choose another --image, %s", withoutTPM2)
	case !strings.Contains(said, "/dev/tpmrm"):
		return false, fmt.Errorf("--tpm2: the machine has no TPM 2.0 that the installer can see: switch it on in "+
			"the firmware's setup (fTPM, PTT, security device), %s", withoutTPM2)
	default:
		return strings.Contains(said, "--unlock-key-file"), nil
	}
}

// checkTPM2 stops an install, before anything is changed, whose containers the TPM cannot be made to open.
func (i *install) checkTPM2(ctx context.Context, p *disko.Plan) error {
	if i.host.TPM2 == "" {
		return nil
	}
	containers, err := p.TPM2()
	if err != nil {
		return fmt.Errorf("--tpm2: %w; %s", err, withoutTPM2)
	}

	binary, err := cryptenroll(ctx, i.session)
	if err != nil {
		return err
	}

	for _, c := range containers {
		if err := i.checkKey(i.host, c, binary); err != nil {
			return err
		}
		if !c.Tries {
			i.note("the layout's settings of %s have no crypttabExtraOpts = [ \"tpm2-device=auto\" ]: unless "+
				"boot.initrd has, %s asks for its passphrase and lets its TPM be", c.Name, i.host.Name)
		}
	}

	return nil
}

// checkKey refuses a key that cannot be given to systemd-cryptenroll.
func (f *reconciler) checkKey(h hosts.Host, c disko.Container, binary bool) error {
	if binary || !c.Binary || strings.HasPrefix(c.KeyFile, "/dev/") { // what is on a device is not known
		return nil
	}
	content, err := f.Hosts.Secret(h.Name, hosts.SecretDisk(c.KeyFile))
	if errors.Is(err, hosts.ErrNotFound) {
		return nil // Disks.Key says so
	}
	if err == nil && bytes.IndexByte(c.Key(content), 0) >= 0 {
		err = fmt.Errorf("--tpm2: the key of %s in %s has a zero byte, which systemd-cryptenroll takes only since "+
			"systemd 252, and the installer image has an older one: "+
			"choose another --image, or another key, %s", c.Name, c.KeyFile, withoutTPM2)
	}
	return err
}

// enrollTPM2 makes the TPM open the new system's containers, and says so for people. Their
// passphrases stay.
func (i *install) enrollTPM2(ctx context.Context, p *disko.Plan) (string, error) {
	if i.host.TPM2 == "" {
		return "", nil
	}
	containers, err := p.TPM2()
	if err != nil {
		return "", err
	}
	var names []string
	b := batch{log: i.Log}
	for _, c := range containers {
		names = append(names, fmt.Sprintf("%s (%s)", c.Device, c.Name))
		b.steps = append(b.steps, c.Enroll(string(i.host.TPM2)))
	}

	if err := b.run(ctx, i.session); err != nil {
		return "", err
	}
	return fmt.Sprintf("; the TPM opens %s while PCR %s stays as it is", strings.Join(names, " and "), strings.ReplaceAll(string(i.host.TPM2), "+", " and ")), nil
}
