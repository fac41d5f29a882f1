package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
	"provision/disko"
	"provision/hosts"
	"provision/images"
)

func join(names []string) string { return strings.Join(names, ", ") }

// enroll checks everything that can be checked before a machine is switched
// on, and only then changes anything.
func (s *Server) enroll(c echo.Context) error {
	var r EnrollRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	h, plan, err := s.permit(c.Request().Context(), r, s.Hosts.CheckEnroll, func(h hosts.Host, secrets map[string][]byte) (hosts.Host, error) {
		return s.Hosts.Enroll(h, r.Permit, secrets)
	})
	if err != nil {
		return err
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	st := status(h)
	st.Warnings = plan.Warnings
	if programs, err := images.Programs(s.Programs); err == nil { // else serve would not have started
		st.Slow = s.slow(h, s.Traces.List(), programs)
	}
	return c.JSON(http.StatusCreated, st)
}

// permit checks the request, plans it, and lets do issue the permit for that plan, unless only
// the plan is asked for; may tells if that would be refused. The flake is as it was if it is.
func (s *Server) permit(ctx context.Context, r EnrollRequest, may func(hosts.Host) error,
	do func(hosts.Host, map[string][]byte) (hosts.Host, error)) (h hosts.Host, plan *Proposal, err error) {
	if err := hosts.CheckName(r.Name); err != nil {
		return h, nil, err
	}
	hw, err := hosts.ParseHardware(r.GenerateHardware, r.Name)
	if err != nil {
		return h, nil, err
	}
	if r.Facts, err = readFacts(r); err != nil {
		return h, nil, err
	}
	if r.PlanOnly {
		h, plan, err := s.planned(ctx, r, hw)
		if err == nil {
			err = may(h)
		}
		return h, plan, err
	}
	if hw.Tool != "" && s.Flake != "" {
		undo, unprepared := s.Prepare(ctx, s.Flake, hw)
		if unprepared != nil {
			return h, nil, unprepared
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, undo())
			}
		}()
	}
	h, secrets, plan, err := s.check(ctx, r)
	if err != nil {
		return h, nil, err
	}
	if err := r.agrees(h.Name, plan); err != nil {
		return h, nil, err
	}
	if h, err = do(h, secrets); err == nil && r.Facts != nil {
		err = s.Hosts.SetFacts(h.Name, r.Facts)
	}
	return h, plan, err
}

// planned is check for a request that only asks. The flake is not touched, unless it does not
// evaluate without the hardware's file; what is put there for that is taken away again.
func (s *Server) planned(ctx context.Context, r EnrollRequest, hw hosts.Hardware) (h hosts.Host, plan *Proposal, err error) {
	h, _, plan, err = s.check(ctx, r)
	if err == nil || hw.Tool == "" || s.Flake == "" {
		return h, plan, err
	}
	undo, unprepared := s.Prepare(ctx, s.Flake, hw)
	if unprepared != nil {
		return h, nil, unprepared
	}
	h, _, plan, err = s.check(ctx, r)
	return h, plan, errors.Join(err, undo())
}

func bind(c echo.Context, to any) error {
	dec := json.NewDecoder(c.Request().Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return nil
}

func (s *Server) check(ctx context.Context, r EnrollRequest) (_ hosts.Host, _ map[string][]byte, plan *Proposal, err error) {
	h := hosts.Host{Name: r.Name, Flake: s.Flake, Options: hosts.Options{Address: r.Address, ExtraFiles: r.ExtraFiles, Disks: r.Disks, Wipe: r.Wipe, PiConfig: r.PiConfig, AllowEEPROM: r.AllowEEPROM}, Permit: hosts.Permit{DryRun: r.DryRun}}
	if err := hosts.CheckName(r.Name); err != nil {
		return h, nil, nil, err
	}
	if s.Flake == "" {
		return h, nil, nil, errors.New("the server has no flake to install from: start it with --flake REF")
	}
	via, err := hosts.ParseVia(r.Via)
	if err != nil {
		return h, nil, nil, err
	}
	if r.Via != "" {
		h.Permit.Via = via
	}
	if r.Permit <= 0 {
		return h, nil, nil, errors.New("a permit needs a time to live: --permit 24h")
	}
	if r.BootMethod != "" {
		if h.Options.Method, err = hosts.ParseMethod(r.BootMethod); err != nil {
			return h, nil, nil, err
		}
	}
	if h.Options.Disko, err = hosts.ParseDisko(r.Disko); err != nil {
		return h, nil, nil, err
	}
	if h.Permit.Take = r.Take; r.Take != nil {
		if err := r.Take.Check(); err != nil {
			return h, nil, nil, err
		}
	}
	if err := addBuild(r, &h); err != nil {
		return h, nil, nil, err
	}
	for _, m := range r.MACs {
		mac, err := hosts.ParseMAC(m)
		if err != nil {
			return h, nil, nil, err
		}
		if other, err := s.Hosts.ByMAC(mac); err == nil && other.Name != r.Name {
			return h, nil, nil, hosts.MACTaken(mac, other.Name)
		}
		h.MACs = append(h.MACs, mac)
	}
	if err := s.addressFree(r.Name, r.Address, h.MACs); err != nil {
		return h, nil, nil, err
	}
	if r.Layout != hosts.NoLayout {
		h.Options.Layout = r.Layout
	}
	if h.Options.Proof, err = hosts.ParseProof(r.Proof); err != nil {
		return h, nil, nil, err
	}
	found, err := s.Evaluate(ctx, s.Flake, r.Name, h.Options)
	if err != nil {
		return h, nil, nil, err
	}
	layout := found.Layout
	arch, err := images.ParseArch(found.System)
	if err != nil {
		return h, nil, nil, fmt.Errorf("%s is built for %s: %w", r.Name, found.System, err)
	}
	if have, err := images.ParseArch(r.Arch); r.Arch != "" && (err != nil || have != arch) {
		return h, nil, nil, fmt.Errorf("the machine is %s, and the flake builds %s for %s: choose another host or another machine", r.Arch, r.Name, arch)
	}
	h.Arch = string(arch)
	if err := s.board(r.Board, &h, layout); err != nil {
		return h, nil, nil, err
	}
	if err := builtFor(h.Options.StorePath, arch); err != nil {
		return h, nil, nil, err
	}
	if h.Image, err = s.image(r.Image, arch); err != nil {
		return h, nil, nil, err
	}
	if h.Options.KernelParams, err = s.kernelParams(r.KernelParams, h.Image); err != nil {
		return h, nil, nil, err
	}
	secrets, err := s.secretsFor(r, &h, layout)
	if err != nil {
		return h, nil, nil, err
	}
	if err := addSecrets(r, &h, secrets); err != nil {
		return h, nil, nil, err
	}
	if plan, err = s.propose(h, layout, r.Facts); err != nil {
		return h, nil, nil, err
	}
	plan.Warnings = s.warnings(h, found)
	h.Permit.Confirmed = &plan.confirmed
	return h, secrets, plan, nil
}

// warnings are what the operator should know of the host before it is installed.
func (s *Server) warnings(h hosts.Host, found Evaluation) (all []string) {
	if found.Warnings != nil {
		all = found.Warnings(h.Options)
	}
	for _, p := range found.Layout.Problems() {
		all = append(all, "the layout: "+p.String())
	}
	if h.Options.Proof == hosts.ProofSeen && s.Serving.DHCP == "off" {
		all = append(all, "with serve --dhcp off no DHCP request is heard here: --proof seen waits for an SSH server on the machine")
	}
	return all
}

// addressFree refuses a fixed address that another host has, or that the machines with these MACs cannot get.
func (s *Server) addressFree(name, addr string, macs []string) error {
	if addr == "" {
		return nil
	}
	all, err := s.Hosts.List()
	for _, o := range all {
		if o.Name != name && o.Options.Address == addr {
			return fmt.Errorf("address %s is %s's already: choose another --address", addr, o.Name)
		}
	}
	if a, parseErr := netip.ParseAddr(addr); err == nil && parseErr == nil && s.CheckAddress != nil { // what is none is found later
		err = s.CheckAddress(a, macs)
	}
	return err
}

// image checks the named image, or picks the only one of the architecture.
func (s *Server) image(name string, arch images.Arch) (string, error) {
	if name == "" {
		all, err := s.Images.List()
		if err != nil {
			return "", err
		}
		var fits []string
		for _, img := range all {
			if img.Arch == arch {
				fits = append(fits, img.Name)
			}
		}
		switch len(fits) {
		case 0:
			return "", fmt.Errorf("there is no installer image for %s yet: add one with `provision images add NAME --arch %s --from DIR`", arch, arch)
		case 1:
			name = fits[0]
		default:
			return "", fmt.Errorf("several images fit %s: choose one with --image: %s", arch, join(fits))
		}
	}
	img, err := s.Images.Get(name)
	if err != nil {
		return "", err
	}
	if img.Arch != arch {
		return "", fmt.Errorf("image %s is for %s, and the flake builds this host for %s: choose another --image", name, img.Arch, arch)
	}
	for _, file := range []images.File{img.Kernel, img.Initrd} {
		f, err := s.Images.OpenFile(file)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", name, err)
		}
		f.Close()
	}
	return name, nil
}

// secretsFor collects the disk keys, which must be all that the layout reads but
// those that the host has and those that are to be made, and the host key that the
// extra files bring, if they bring one.
func (s *Server) secretsFor(r EnrollRequest, h *hosts.Host, layout *disko.Layout) (secrets map[string][]byte, err error) {
	// Before the machine was seen there is nothing to keep; the keys are the same in all ways.
	way := h.Options.Disko
	o := PlanOptions(way, r.Disks)
	o.Way = disko.Fresh
	plan, err := disko.NewPlan(layout, nil, o)
	if err != nil {
		return nil, err
	}
	want := plan.KeyFiles()
	h.Options.DiskKeys = want
	if err := tpm2(r.TPM2, h, plan); err != nil {
		return nil, err
	}
	secrets = make(map[string][]byte)
	for _, path := range want {
		key, given := r.DiskKeys[path]
		switch {
		case given:
			if err := plan.CheckKey(path, key); err != nil {
				return nil, fmt.Errorf("the disk encryption key for %s: %w", path, err)
			}
			secrets[hosts.SecretDisk(path)] = key
		case s.Hosts.HasDiskKey(r.Name, path): // given at an earlier enrolment
		case len(r.EscrowTo) == 0:
			return nil, fmt.Errorf("the layout of %s reads a disk encryption key from %s: give it with --disk-encryption-key %s=FILE, or have one made with --escrow-to RECIPIENT", r.Name, path, path)
		case !way.Erases():
			return nil, fmt.Errorf("--disko %s keeps the LUKS containers that are there, and a new passphrase would not open them: give theirs with --disk-encryption-key %s=FILE", way, path)
		default:
			h.Options.Generated = append(h.Options.Generated, path)
		}
	}
	for path := range r.DiskKeys {
		if !slices.Contains(want, path) {
			return nil, fmt.Errorf("the layout of %s reads no key from %s; it reads: %s", r.Name, path, join(append(want, "nothing else")))
		}
	}
	if len(r.EscrowTo) > 0 && len(want) == 0 && !r.again {
		return nil, fmt.Errorf("the layout of %s reads no disk encryption key: there is nothing for --escrow-to", r.Name)
	}
	if r.ExtraFiles == "" {
		return secrets, nil
	}
	if err := hosts.CheckExtraFiles(r.ExtraFiles); err != nil {
		return nil, err
	}
	key, err := extraHostKey(r.ExtraFiles)
	if key != nil {
		secrets[hosts.SecretHostKey] = key
	}
	return secrets, err
}

// extraHostKey returns the host's SSH key if the extra files hold one.
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
