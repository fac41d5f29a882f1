package installer

import (
	"context"
	"errors"
	"fmt"

	"provision/hosts"
	"provision/internal/target"
)

// boots is what the machine's firmware boots; nothing where the install does not change it.
func (f *follower) boots(ctx context.Context, h hosts.Host, s *session) (target.Boots, error) {
	if h.BootOrder != hosts.OrderDiskFirst {
		return target.Boots{}, nil
	}
	printed, err := s.run(ctx, nil, "sh", "-c", target.ListBoot)
	if err != nil {
		return target.Boots{}, err
	}
	return target.ParseBoots(string(printed))
}

// diskFirst puts the new system's entry first in the firmware's order. It says so for the log, behind a comma; where
// that cannot be done the host is installed all the same, and a note says why. The variable is written as it is:
// installer images have no efibootmgr.
func (f *follower) diskFirst(ctx context.Context, h hosts.Host, s *session, before target.Boots) (string, error) {
	if h.BootOrder != hosts.OrderDiskFirst {
		return "", nil
	}
	words, err := f.orderBoots(ctx, h, s, before)
	if errors.Is(err, errLost) || ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		f.note("--boot-order disk-first: %v; the firmware's boot order stays as it is: change it in its setup", err)
		return "", nil
	}
	return ", " + words, nil
}

func (f *follower) orderBoots(ctx context.Context, h hosts.Host, s *session, before target.Boots) (string, error) {
	now, err := f.boots(ctx, h, s)
	if err != nil {
		return "", err
	}
	if !now.UEFI() {
		return "", errors.New("the machine was started by BIOS, whose order no system can change")
	}
	entry, label := now.NewSystem(before)
	if entry == "" {
		return "", fmt.Errorf("the boot loader of %s made no entry for its ESP "+
			"(boot.loader.efi.canTouchEfiVariables is false, or it is installed as removable)", h.Name)
	}
	order, err := now.First(entry)
	if err != nil {
		return "", err
	}
	if order != "" {
		if _, err := s.run(ctx, nil, beside("sh", "-c", target.SetBootOrder, "sh", order)...); err != nil {
			return "", fmt.Errorf("write UEFI variable BootOrder: %w", err)
		}
	}
	return fmt.Sprintf("%s (%s) is first in the firmware's boot order", entry, label), nil
}
