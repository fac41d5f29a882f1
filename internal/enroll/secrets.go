package enroll

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// secretsFor collects the secrets of a host by name: disk keys, the contents of secret files and the host's SSH key, as
// far as they are in the request or in the extra files.
func (s *Service) secretsFor(r Request, h *hosts.Host, layout *disko.Layout) (map[string][]byte, error) {
	secrets, err := s.diskKeys(r, h, layout)
	if err != nil {
		return nil, err
	}
	if r.ExtraFiles != "" {
		if err := hosts.CheckExtraFiles(r.ExtraFiles); err != nil {
			return nil, err
		}
		key, err := extraHostKey(r.ExtraFiles)
		if err != nil {
			return nil, err
		}
		if key != nil {
			secrets[hosts.SecretHostKey] = key
		}
	}

	return secrets, addSecrets(r, secrets)
}

// diskKeys collects the disk keys in the request. Every key that the layout reads must be in the request, known from an
// earlier enrolment, or be one that is to be generated. It sets DiskKeys and Generated of the host.
func (s *Service) diskKeys(r Request, h *hosts.Host, layout *disko.Layout) (map[string][]byte, error) {
	// Mode Fresh can be planned without the machine, and the keys are the same in all modes.
	o := PlanOptions(h.Disko, r.Disks)
	o.Mode = disko.Fresh
	plan, err := disko.NewPlan(layout, nil, o)
	if err != nil {
		return nil, err
	}

	if err := suitsTPM(h, plan); err != nil {
		return nil, err
	}

	h.DiskKeys = plan.KeyFiles()
	secrets := make(map[string][]byte)
	for _, path := range h.DiskKeys {
		key, given := r.DiskKeys[path]
		switch {
		case given:
			if err := plan.CheckKey(path, key); err != nil {
				return nil, fmt.Errorf("the disk encryption key for %s: %w", path, err)
			}
			secrets[hosts.SecretDisk(path)] = key
		case s.Hosts.HasDiskKey(r.Name, path): // it was given at an earlier enrolment
		case len(r.EscrowTo) == 0:
			return nil, fmt.Errorf("the layout of %s reads a disk encryption key from %s: "+
				"give it with --disk-encryption-key %s=FILE, or have one made with --escrow-to "+
				"RECIPIENT", r.Name, path, path)
		case !h.Disko.Erases():
			return nil, fmt.Errorf("--disko %s keeps the LUKS containers that are there, and a new passphrase "+
				"would not open them: "+
				"give theirs with --disk-encryption-key %s=FILE", h.Disko, path)
		default:
			h.Generated = append(h.Generated, path)
		}
	}

	for path := range r.DiskKeys {
		if !slices.Contains(h.DiskKeys, path) {
			return nil, fmt.Errorf("the layout of %s reads no key from %s; it reads: %s",
				r.Name, path, strings.Join(append(h.DiskKeys, "nothing else"), ", "))
		}
	}

	if len(r.EscrowTo) > 0 && len(h.DiskKeys) == 0 && !r.escrowKept {
		return nil, fmt.Errorf("the layout of %s reads no disk encryption key: there is nothing for "+
			"--escrow-to", r.Name)
	}
	return secrets, nil
}

// suitsTPM returns an error if the machine's TPM is to open the disks, but the layout does not allow that.
func suitsTPM(h *hosts.Host, plan *disko.Plan) error {
	if h.TPM2 == "" {
		return nil
	}
	if _, err := plan.TPM2(); err != nil {
		return fmt.Errorf("--tpm2: %w; or leave %s to its passphrase (no --tpm2, or "+
			"--tpm2=%s)", err, h.Name, hosts.NoTPM2)
	}
	return nil
}

// addSecrets adds the host key and the secret files of the request.
func addSecrets(r Request, secrets map[string][]byte) error {
	if r.HostKey != nil {
		public, private, err := hosts.ParseHostKey(r.HostKey)
		if err != nil {
			return fmt.Errorf("host key: %w", err)
		}

		if extra := secrets[hosts.SecretHostKey]; extra != nil {
			other, _, err := hosts.ParseHostKey(extra)
			if err != nil || other != public {
				return errors.New("--host-key is another key than etc/ssh/ssh_host_ed25519_key in --extra-files: " +
					"give one of them")
			}
		}

		secrets[hosts.SecretHostKey] = private
	}

	for _, f := range r.Secrets {
		switch {
		case f.Content == nil: // the server has it already
			continue
		case len(f.Content) == 0:
			return fmt.Errorf("secret %s is empty", f.Path)
		case len(f.Content) > hosts.MaxSecret:
			return fmt.Errorf("secret %s has %d bytes; %d are the most (larger files go with --extra-files)",
				f.Path, len(f.Content), hosts.MaxSecret)
		}
		secrets[hosts.SecretContent(f.Path)] = bytes.Clone(f.Content)
	}

	return nil
}

// extraHostKey returns the host's SSH key from the extra files; nil if they have none.
func extraHostKey(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("extra files: %w", err)
	}
	defer root.Close()
	const name = "etc/ssh/ssh_host_ed25519_key"
	key, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		_, key, err = hosts.ParseHostKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("extra files: %s: %w", name, err)
	}
	return key, nil
}
