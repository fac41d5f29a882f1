package installer

import (
	"context"
	"errors"
	"fmt"

	"provision/hosts"
	"provision/internal/handover"
)

// boots is what the machine's firmware boots; nothing where the install does not change it.
func (i *install) boots(ctx context.Context) (handover.Boots, error) {
	if i.host.BootOrder != hosts.OrderDiskFirst {
		return handover.Boots{}, nil
	}
	printed, err := i.session.run(ctx, nil, "sh", "-c", handover.ListBoot)
	if err != nil {
		return handover.Boots{}, err
	}
	return handover.ParseBoots(string(printed))
}

// diskFirst puts the new system's entry first in the firmware's order. It says so for the log, behind a comma; where
// that cannot be done the host is installed all the same, and a note says why. The variable is written as it is:
// installer images have no efibootmgr.
func (i *install) diskFirst(ctx context.Context, before handover.Boots) (string, error) {
	if i.host.BootOrder != hosts.OrderDiskFirst {
		return "", nil
	}
	report, err := i.orderBoots(ctx, before)
	if errors.Is(err, errLost) || ctx.Err() != nil {
		return "", err
	}
	if err != nil {
		i.note("--boot-order disk-first: %v; the firmware's boot order stays as it is: change it in its setup", err)
		return "", nil
	}
	return ", " + report, nil
}

func (i *install) orderBoots(ctx context.Context, before handover.Boots) (string, error) {
	now, err := i.boots(ctx)
	if err != nil {
		return "", err
	}

	if !now.UEFI() {
		return "", errors.New("the machine was started by BIOS, whose order no system can change")
	}
	entry, label := now.NewSystem(before)
	if entry == "" {
		return "", fmt.Errorf("the boot loader of %s made no entry for its ESP "+
			"(boot.loader.efi.canTouchEfiVariables is false, or it is installed as removable)", i.host.Name)
	}
	order, err := now.First(entry)
	if err != nil {
		return "", err
	}

	if order != "" {
		if _, err := i.session.run(ctx, nil, sharedLock("sh", "-c", handover.SetBootOrder, "sh", order)...); err != nil {
			return "", fmt.Errorf("write UEFI variable BootOrder: %w", err)
		}
	}

	return fmt.Sprintf("%s (%s) is first in the firmware's boot order", entry, label), nil
}
