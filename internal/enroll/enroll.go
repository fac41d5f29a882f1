// Package enroll has the rules for enrolling hosts, installing them again, changing them and planning. Everything that
// can be checked before a machine is switched on is checked here, before anything is changed.
//
// It computes what would be done to the disks ([Proposal]) from the same request that a permit is issued for, so that
// what is confirmed is what is done. It knows the inventory, the images and, through functions, the flake; it does not
// know how requests arrive. It may import disko, hosts, images, internal/confirm and internal/text.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/text"
)

// Service carries out requests of operators. Its fields are its options; all are required except Programs and
// CheckAddress.
type Service struct {
	Flake  string // flake reference of the fleet; empty: nothing can be enrolled
	Hosts  *hosts.Inventory
	Images *images.Catalog

	// Evaluate reads what the flake says about a host. The layout may come from elsewhere if the choices say so.
	Evaluate func(ctx context.Context, flake, host string, c hosts.Choices) (Evaluation, error)
	// Prepare makes sure that the file for the hardware configuration is in the flake. undo removes what Prepare added.
	Prepare func(ctx context.Context, flake string, hw hosts.Hardware) (undo func() error, err error)
	// CheckAddress returns an error if machines with these MACs cannot get the address.
	CheckAddress func(addr netip.Addr, macs []string) error
	// NoDHCP means that the server does not receive DHCP requests.
	NoDHCP bool
}

// Evaluation is what a flake says about a host.
type Evaluation struct {
	System string // such as x86_64-linux
	Layout *disko.Layout
	// Warnings returns what an operator should know before the host is installed with these choices. It may be nil.
	Warnings func(c hosts.Choices) []string
}

// Enroll makes a host, or changes one that is not being installed, and issues a permit for the plan that it returns. If
// the request asks only for the plan, nothing is changed and the flake stays as it is; if the host's state does not
// allow an enrolment, that is an error all the same.
func (s *Service) Enroll(ctx context.Context, r Request) (hosts.Host, *Proposal, error) {
	return s.permit(ctx, r, s.Hosts.CheckEnroll, func(h hosts.Host, secrets map[string][]byte) (hosts.Host, error) {
		return s.Hosts.Enroll(h, r.Permit, secrets)
	})
}

// Reinstall issues a permit to erase a host and install it again. What the request leaves out stays as it was enrolled.
func (s *Service) Reinstall(ctx context.Context, r Request) (hosts.Host, *Proposal, error) {
	before, err := s.Hosts.Get(r.Name)
	if err != nil {
		return hosts.Host{}, nil, err
	}
	again := func(h hosts.Host, secrets map[string][]byte) (hosts.Host, error) {
		return s.Hosts.Reinstall(h, r.Permit, secrets, r.NewIdentity)
	}
	return s.permit(ctx, r.over(before), s.Hosts.CheckReinstall, again)
}

// permit checks and plans the request, and calls do to issue the permit for that plan, unless only the plan is
// requested; may returns the error with which do would be refused. After an error, the flake is as it was before.
func (s *Service) permit(ctx context.Context, r Request, may func(hosts.Host) error,
	do func(hosts.Host, map[string][]byte) (hosts.Host, error)) (h hosts.Host, plan *Proposal, err error) {
	if err := hosts.CheckName(r.Name); err != nil {
		return h, nil, err
	}
	r.Hardware = r.Hardware.For(r.Name)
	if r.Facts, err = readFacts(r); err != nil {
		return h, nil, err
	}

	if r.PlanOnly {
		h, plan, err := s.planned(ctx, r)
		if err == nil {
			err = may(h)
		}
		return h, plan, err
	}

	if r.Hardware.Tool != "" && s.Flake != "" {
		undo, unprepared := s.Prepare(ctx, s.Flake, r.Hardware)
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

	h, err = do(h, secrets)
	if err == nil && r.Facts != nil {
		err = s.Hosts.SetFacts(h.Name, r.Facts)
	}

	return h, plan, err
}

// planned is check for a request that only asks for the plan. It changes the flake only if that does not evaluate
// without the file for the hardware configuration, and then undoes the change.
func (s *Service) planned(ctx context.Context, r Request) (h hosts.Host, plan *Proposal, err error) {
	h, _, plan, err = s.check(ctx, r)
	if err == nil || r.Hardware.Tool == "" || s.Flake == "" {
		return h, plan, err
	}
	undo, unprepared := s.Prepare(ctx, s.Flake, r.Hardware)
	if unprepared != nil {
		return h, nil, unprepared
	}
	h, _, plan, err = s.check(ctx, r)
	return h, plan, errors.Join(err, undo())
}

// check returns the host for a request, its secrets, and the plan that the permit is for.
func (s *Service) check(ctx context.Context, r Request) (hosts.Host, map[string][]byte, *Proposal, error) {
	h, err := s.asked(r)
	if err != nil {
		return h, nil, nil, err
	}

	found, err := s.Evaluate(ctx, s.Flake, r.Name, h.Choices)
	if err != nil {
		return h, nil, nil, err
	}

	if err := s.fit(r, &h, found); err != nil {
		return h, nil, nil, err
	}

	secrets, err := s.secretsFor(r, &h, found.Layout)
	if err != nil {
		return h, nil, nil, err
	}

	plan, err := s.propose(h, found.Layout, r.Facts)
	if err != nil {
		return h, nil, nil, err
	}

	plan.Warnings = s.warnings(h, found)
	h.Permit.Confirmed = &plan.confirmed
	return h, secrets, plan, nil
}

// asked returns the host for a request, as far as it follows from the request alone.
func (s *Service) asked(r Request) (hosts.Host, error) {
	h := hosts.Host{
		Name:    r.Name,
		Flake:   s.Flake,
		Choices: r.Choices,
		Permit:  hosts.Permit{DryRun: r.DryRun, Via: r.Via, Take: r.Take},
	}
	if err := hosts.CheckName(r.Name); err != nil {
		return h, err
	}

	if s.Flake == "" {
		return h, errors.New("the server has no flake to install from: start it with --flake REF")
	}
	if r.Permit <= 0 {
		return h, errors.New("a permit needs a time to live: --permit 24h")
	}
	h.Secrets = nil
	for _, f := range r.Secrets {
		h.Secrets = append(h.Secrets, f.SecretFile)
	}
	if err := h.Check(); err != nil {
		return h, err
	}

	if r.Take != nil {
		if err := r.Take.Check(); err != nil {
			return h, err
		}
	}

	if h.StorePath != "" {
		var err error
		if h.StorePath, err = builtSystem(h.StorePath); err != nil {
			return h, err
		}
	}

	for _, m := range r.MACs {
		mac, err := hosts.ParseMAC(m)
		if err != nil {
			return h, err
		}
		if other, err := s.Hosts.ByMAC(mac); err == nil && other.Name != r.Name {
			return h, hosts.MACTaken(mac, other.Name)
		}
		h.MACs = append(h.MACs, mac)
	}

	return h, s.addressFree(r.Name, r.FixedAddress, h.MACs)
}

// fit completes the host of a request with what the flake says, and checks that they fit.
func (s *Service) fit(r Request, h *hosts.Host, found Evaluation) error {
	arch, err := images.ParseArch(found.System)
	if err != nil {
		return fmt.Errorf("%s is built for %s: %w", r.Name, found.System, err)
	}

	if have, err := images.ParseArch(r.Arch); r.Arch != "" && (err != nil || have != arch) {
		return fmt.Errorf("the machine is %s, and the flake builds %s for %s: choose another host or another machine",
			r.Arch, r.Name, arch)
	}

	h.Arch = string(arch)
	if err := s.board(r.Board, h, found.Layout); err != nil {
		return err
	}
	if err := builtFor(h.StorePath, arch); err != nil {
		return err
	}
	if h.Image, err = s.image(r.Image, arch); err != nil {
		return err
	}

	h.KernelParams, err = s.kernelParams(r.KernelParams, h.Image)
	return err
}

// warnings returns what the operator should know before the host is installed.
func (s *Service) warnings(h hosts.Host, found Evaluation) (all []string) {
	if found.Warnings != nil {
		all = found.Warnings(h.Choices)
	}
	for _, p := range found.Layout.Problems() {
		all = append(all, "the layout: "+p.String())
	}
	if h.Proof == hosts.ProofSeen && s.NoDHCP {
		all = append(all, "with serve --dhcp off no DHCP request is heard here: "+
			"--proof seen waits for an SSH server on the machine")
	}
	return all
}

// addressFree returns an error if a fixed address belongs to another host, or if machines with these MACs cannot get
// it.
func (s *Service) addressFree(name, addr string, macs []string) error {
	if addr == "" {
		return nil
	}
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.Name != name && o.FixedAddress == addr {
			return fmt.Errorf("address %s is %s's already: choose another --address", addr, o.Name)
		}
	}

	a, err := netip.ParseAddr(addr)
	if err != nil || s.CheckAddress == nil {
		return nil // an address that is not valid is reported by Choices.Check
	}
	return s.CheckAddress(a, macs)
}

// image checks that the named image suits the architecture and is complete. If name is empty, it chooses the only image
// for the architecture.
func (s *Service) image(name string, arch images.Arch) (string, error) {
	if name == "" {
		only, err := s.onlyImage(arch)
		if err != nil {
			return "", err
		}
		name = only
	}

	img, err := s.Images.Get(name)
	if err != nil {
		return "", err
	}

	if img.Arch != arch {
		return "", fmt.Errorf("image %s is for %s, and the flake builds this host for %s: choose another --image",
			name, img.Arch, arch)
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

// onlyImage returns the only image for an architecture.
func (s *Service) onlyImage(arch images.Arch) (string, error) {
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
		return "", fmt.Errorf("there is no installer image for %s yet: add one with `provision images add NAME "+
			"--arch %s --from DIR`",
			arch, arch)
	case 1:
		return fits[0], nil
	}

	return "", fmt.Errorf("several images fit %s: choose one with --image: %s", arch, strings.Join(fits, ", "))
}

// kernelParams checks the kernel parameters for a host with this image.
func (s *Service) kernelParams(params []string, image string) ([]string, error) {
	params, err := images.ParseKernelParams(params)
	if err != nil || len(params) == 0 {
		return nil, err
	}
	img, err := s.Images.Get(image)
	if err != nil {
		return nil, err
	}
	return params, img.Fits(params)
}

// Set changes what needs no decision to erase anything, by the same rules as an enrolment. by says who asks for it, for
// people.
func (s *Service) Set(ctx context.Context, name string, r SetRequest, by string) (hosts.Alteration, error) {
	h, err := s.Hosts.Get(name)
	if err != nil {
		return hosts.Alteration{}, err
	}

	change := hosts.Change{
		MACs:    r.MACs,
		Serial:  r.Serial,
		Choices: r.Choices,
		Named:   r.Named,
	}
	after := h.Choices
	after.Take(r.Choices, r.Named)
	if err := after.Check(); err != nil {
		return hosts.Alteration{}, err
	}

	named := func(choice string) bool { return slices.Contains(r.Named, choice) }
	if named("address") {
		if err := s.addressFree(name, r.FixedAddress, h.MACs); err != nil {
			return hosts.Alteration{}, err
		}
	}

	if named("board") {
		if change.Choices.Board, err = s.chosenBoard(ctx, h, r.Board); err != nil {
			return hosts.Alteration{}, err
		}
	}

	if named("image") {
		if after.Image, err = s.image(r.Image, images.Arch(h.Arch)); err != nil {
			return hosts.Alteration{}, err
		}
		change.Choices.Image = after.Image
	}

	if named("image") || named("kernel_params") { // the existing parameters must fit another image too
		if change.Choices.KernelParams, err = s.kernelParams(after.KernelParams, after.Image); err != nil {
			return hosts.Alteration{}, err
		}
		change.Named = append(change.Named, "kernel_params")
	}

	return s.Hosts.Set(name, change, by)
}

// shortText returns the text of an error. It is shortened, as much of it may come from a flake or a machine.
func shortText(err error) string { return text.Short(err.Error(), hosts.MaxMessage) }
