package web

import (
	"fmt"

	"provision/disko"
	"provision/hosts"
)

// tpm2 sets which PCRs let the machine's TPM open the host's disks, if it shall.
func tpm2(pcrs string, h *hosts.Host, plan *disko.Plan) (err error) {
	if pcrs == "" {
		return nil
	}
	if h.Options.TPM2, err = hosts.ParsePCRs(pcrs); err != nil || h.Options.TPM2 == "" {
		return err
	}
	if _, err := plan.TPM2(); err != nil {
		return fmt.Errorf("--tpm2: %w; or leave %s to its passphrase (no --tpm2, or --tpm2=%s)", err, h.Name, hosts.NoTPM2)
	}
	return nil
}
