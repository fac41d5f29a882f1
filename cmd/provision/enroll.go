package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/internal/api"
	"provision/internal/enroll"
)

const enrollHelp = `Say which machine shall become which host of the flake, and permit, once, that
its disks are erased for it. Switch the machine on within the permit's time.

With --disko format nothing is erased: what the layout has and the disks have
not is made; with mount, not even that. If something on the disks differs from
the layout, the install fails and says what. With script, the flake's own
config.system.build.diskoScript makes the disks.

  provision enroll 52:54:00:12:34:56 bravo
  provision enroll 52:54:00:12:34:56 bravo --disk-encryption-key /tmp/disk.key=disk.key

--disk NAME=DISK takes another disk than the one that the layout names. NAME is the
disk's below disko.devices.disk; DISK is serial:SERIAL, wwn:WWN, a path, or largest or
smallest, alone or of a class: -nvme, -sata, -ssd (all that does not rotate), -hdd.
Removable and USB disks are only taken by serial, WWN or path. What the installed
system's own configuration makes of the device (boot.loader.grub.devices, for one)
stays as the flake has it.

  provision enroll 52:54:00:12:34:56 bravo --disk main=smallest-nvme --disk data=serial:WD-5G

A host whose flake has no disko takes a layout of ` + "`provision layout list`" + `. Its own
configuration must mount what that makes: see ` + "`provision layout --help`" + `.

  provision enroll 52:54:00:12:34:56 bravo --layout ext4 --disk main=largest

An install stops before it changes anything if a disk that it would erase is
removable, in use, another host's, or holds what may be somebody's: Windows, LUKS or
ZFS that is not this host's own. It says so, and which --wipe takes the disk anyway.
With --dry-run nothing is changed in any case: the machine netboots, the system is
built, and all is checked that can be. Enroll it again to install it.

  provision enroll 52:54:00:12:34:56 bravo --dry-run && provision wait bravo
  provision enroll 52:54:00:12:34:56 bravo --wipe S3Z9NB0K

--escrow-to makes a passphrase for each key file that is not given: eight groups of
four letters (128 bits), of letters that are on the same keys of QWERTY, QWERTZ and
AZERTY keyboards. The spaces belong to it. ` + "`provision secrets`" + ` prints it, for
whoever has the private key; once the host is installed, nobody else can.

  provision enroll 52:54:00:12:34:56 bravo --escrow-to ~/.ssh/id_ed25519.pub

--tpm2 lets the machine's TPM open its LUKS containers; the passphrases go on to open
them, too. The flake must have the TPM tried: boot.initrd.systemd.enable, and in the
layout's settings crypttabExtraOpts = [ "tpm2-device=auto" ]. PCR 7 (Secure Boot) is the
same in the installer and in the installed system where Secure Boot is off or one key
verifies both; PCRs that never are the same are refused.

  provision enroll 52:54:00:12:34:56 bravo --tpm2 --escrow-to ~/.ssh/id_ed25519.pub

A host is installed when it answers with its own SSH key, at the ports of the flake's
services.openssh.ports, and runs what was built (where it lets this server log in). sshd
in stage 1 (boot.initrd.network.ssh) does not count: it waits for the passphrase, and
status says where. --proof ssh:2222 looks at another port; --proof seen is content with a
DHCP request by its networking.hostName, or any SSH server on the machine, after the
restart; --proof none with a machine that left the installer, and proves nothing.

  provision enroll 52:54:00:12:34:56 kiosk --proof seen

--boot-order disk-first makes the new system's entry the first in the firmware's boot
order, and removes none: the machine then starts without trying the network. By
default the order is what the host's own boot loader makes of it: NixOS's puts itself
first where boot.loader.efi.canTouchEfiVariables is true, and else leaves it alone.

--secret puts a file on the new system, owned by root. It is sealed on the server and
removed from it once the host is installed, unless there is --keep. Where / is new at each
boot, it goes, as the host's SSH key does, to where environment.persistence or
fileSystems keep it.

  provision enroll 52:54:00:12:34:56 bravo --secret /var/lib/tailscale.key=ts.key:0400 \
    --extra-files ./extra --chown /home/ada=1000:100`

// enrollCommand is `provision enroll`.
func enrollCommand(daemon *api.Client) *cobra.Command {
	var e enrollment
	c := &cobra.Command{Use: "enroll MAC[,MAC...] HOST", Short: "say which machine shall become which host", Long: enrollHelp,
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeMACs(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if err := misplaced(args[0], args[1]); err != nil {
				return errUsage{err}
			}
			if err := e.parse(c); err != nil {
				return err
			}

			e.request.MACs, e.request.Name = strings.Split(args[0], ","), args[1]
			var s api.Status
			if err := daemon.Call(c.Context(), http.MethodPost, api.HostsPath, e.request, &s); err != nil {
				return err
			}

			sayEnrolled(c, daemon, s)
			fmt.Fprintf(c.OutOrStdout(), "%s. Switch it on; follow it with: provision watch %s\n", permission(s), s.Name)
			return nil
		}}
	e.flags(c, "")
	return c
}

// enrollment is what a host is enrolled with, as it was typed.
type enrollment struct {
	request enroll.Request
	disks   []string // values of --disk
	secret  secretFlags
}

// flags adds the flags of enroll, install and reinstall. via is the default of --via.
func (e *enrollment) flags(c *cobra.Command, via hosts.Via) {
	r := &e.request
	choiceFlags(c, &r.Choices, toEnroll)
	diskFlag(c, &e.disks)
	e.secret.add(c)
	r.Via = via
	viaFlag(c, &r.Via, via)
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "do all that comes before the first change, and stop")
	c.Flags().DurationVar(&r.Permit, "permit", 24*time.Hour, "how long the machine has to start its install")
	group(c, "first", "disk", "disk-encryption-key", "dry-run")
	group(c, "machine", "via", "permit")
}

// viaFlag adds --via. otherwise is the default that the help text shows; empty: as before.
func viaFlag(c *cobra.Command, via *hosts.Via, otherwise hosts.Via) {
	help := "how the machine is made to come: auto, kexec, netboot, wol or manual"
	choiceFlag(c, hosts.Choice{Flag: "via", Help: help}, via)
	c.Flags().Lookup("via").DefValue = string(otherwise)
}

// parse checks the flags and completes the request, except for MACs and name.
func (e *enrollment) parse(c *cobra.Command) (err error) {
	r := &e.request
	r.Named = saidChoices(c)
	for _, path := range []*string{&r.StorePath, &r.ExtraFiles} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}

	if err := checkChoices(r.Choices); err != nil {
		return errUsage{err}
	}
	if r.Disks, err = disko.ParseDisks(e.disks); err != nil {
		return errUsage{fmt.Errorf("--disk: %w", err)}
	}
	return e.secret.read(c, r)
}

// agreed returns the request with the operator's agreement.
func (e *enrollment) agreed(a enroll.Agreement) any {
	e.request.Agreement = a
	return e.request
}

// sayEnrolled says what a host is enrolled as.
func sayEnrolled(c *cobra.Command, daemon *api.Client, s api.Status) {
	fmt.Fprintf(c.OutOrStdout(), "%s shall become %s, with image %s.\n", strings.Join(s.MACs, ", "), s.Name, s.Image)
	fmt.Fprintf(c.OutOrStdout(), "Its SSH host key: %s\n", s.HostKey)
	for _, what := range s.Slow {
		fmt.Fprintf(c.OutOrStdout(), "Note: %s.\n", what)
	}
	warn(c, s)
	if len(s.EscrowTo) > 0 {
		fmt.Fprintf(c.OutOrStdout(), "Its disk passphrases are in escrow: provision secrets %s\n", s.Name)
	}
	sayNamesake(c, daemon, s)
}

// warn prints what to know before the host is installed.
func warn(c *cobra.Command, s api.Status) {
	for _, what := range s.Warnings {
		fmt.Fprintf(c.OutOrStdout(), "Warning: %s.\n", what)
	}
}

// completeWays completes a fixed list of words.
func completeWays(ways ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(ways, cobra.ShellCompDirectiveNoFileComp)
}

// permission says what the permit allows, and until when.
func permission(s api.Status) string {
	may := "Its disks may be erased once"
	switch {
	case s.Permit.DryRun:
		may = "It may netboot for a dry run, which changes nothing"
	case s.Disko == hosts.Format:
		may = "What its disks lack may be made and the system installed, nothing erased, once"
	case s.Disko == hosts.Mount:
		may = "Its file systems may be mounted and the system installed, nothing erased, once"
	}
	return may + ", until " + s.Permit.Expires.Local().Format("2006-01-02 15:04")
}

// diskFlag adds --disk, whose values disko.ParseDisks reads.
func diskFlag(c *cobra.Command, disks *[]string) {
	c.Flags().StringArrayVar(disks, "disk", nil, "NAME=DISK: the disk to take for the layout's NAME: "+
		"serial:SERIAL, wwn:WWN, largest, smallest-nvme and so on, or a path")
}
