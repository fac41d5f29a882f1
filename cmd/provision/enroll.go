package main

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/web"
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

func enrollCommand(api *client) *cobra.Command {
	var e enrolment
	c := &cobra.Command{Use: "enroll MAC[,MAC...] HOST", Short: "say which machine shall become which host", Long: enrollHelp,
		Args: cobra.ExactArgs(2), ValidArgsFunction: api.completeMACs,
		RunE: func(c *cobra.Command, args []string) error {
			if err := e.parse(c); err != nil {
				return err
			}
			e.request.MACs, e.request.Name = strings.Split(args[0], ","), args[1]
			var s web.Status
			if err := api.call(c.Context(), http.MethodPost, "/v1/hosts", e.request, &s); err != nil {
				return err
			}
			tell(c, api, s)
			fmt.Fprintf(c.OutOrStdout(), "%s. Switch it on; follow it with: provision watch %s\n", permission(s), s.Name)
			return nil
		}}
	e.flags(c, "")
	return c
}

// enrolment is what a host is enrolled with, as it was typed.
type enrolment struct {
	request web.EnrollRequest
	disks   []string
	secret  secretFlags
}

// flags adds those of enroll, install and reinstall. via is how the machine is made to come
// if nothing is said.
func (e *enrolment) flags(c *cobra.Command, via string) {
	r, fl := &e.request, c.Flags()
	fl.StringVar(&r.Image, "image", "", "installer image (default: the only one for the host's architecture)")
	fl.StringVar(&r.Board, "board", "auto", "what the machine is: "+strings.Join(images.BoardNames(), ", ")+"; auto: what it is recognised as when it asks")
	fl.StringVar(&r.BootMethod, "boot-method", "", "the only way to answer its firmware: binl, first, header or plain; "+
		"snponly or native; or both, first+snponly; for a Raspberry Pi, pi or u-boot (default: what worked, else each in turn)")
	fl.StringArrayVar(&r.PiConfig, "config-txt", nil, "LINE to add to the config.txt that a Raspberry Pi netboots with, such as dtparam=pciex1")
	kernelParamFlag(c, &r.KernelParams)
	fl.BoolVar(&r.AllowEEPROM, "allow-eeprom-update", false, "let a Raspberry Pi fetch the firmware's recovery and EEPROM files, with which it writes its EEPROM anew")
	fl.StringVar(&r.Disko, "disko", "", "how its disks are made: fresh, format, mount or script (default fresh)")
	fl.StringVar(&r.Layout, "layout", "", "a layout of provision layout list, for a host whose flake has no disko; none: no more")
	fl.StringVar(&r.Address, "address", "", "fixed IPv4 address (with serve --dhcp server)")
	fl.StringVar(&r.Via, "via", via, "how the machine is made to come: auto, kexec, netboot, wol or manual")
	e.secret.add(c)
	fl.StringVar(&r.TPM2, "tpm2", "", "let the machine's TPM 2.0 open the LUKS containers while these PCRs stay as they are, such as 0+2+7 (7 if none are said), beside the passphrase; off: no more")
	fl.Lookup("tpm2").NoOptDefVal = "7"
	fl.BoolVar(&r.KeepSecrets, "keep", false, "keep the files of --secret on the server after the host is installed, for its next install")
	fl.StringVar(&r.GenerateHardware, "generate-hardware-config", "", "TOOL[=PATH]: have nixos-generate-config or nixos-facter look at the machine, and write what it finds into the flake before the build (default PATH hosts/HOST/hardware-configuration.nix or facter.json)")
	fl.StringVar(&r.Proof, "proof", "", "what counts as installed: ssh: it answers with its own SSH key, where the flake has sshd listen, or at ssh:PORT; seen: it asks for an address by its name, or some SSH server answers; none: it left the installer (default ssh)")
	fl.StringVar(&r.BuildOn, "build-on", "", "where the system is built: server, target or auto: the server if it builds for the host's platform, itself or by a remote builder (default auto)")
	fl.StringVar(&r.StorePath, "store-path", "", "install this system, which is built and in the server's nix store; the flake says the layout")
	fl.StringVar(&r.BootOrder, "boot-order", "", "the firmware's boot order after the install: "+
		"disk-first: the new system's entry comes before all others, and none is removed; "+
		"keep: as the host's own boot loader leaves it (default keep)")
	fl.StringVar(&r.CopyOver, "copy-over", "", "how the system gets to the machine: http: signed, out of this server's binary cache, which is fastest; ssh: encrypted, too; auto: http if the machine reaches it (default auto)")
	fl.BoolVar(&r.TargetSubstitutes, "substituters-on-target", false, "have the machine fetch what its binary caches have, instead of copying it from the server")
	diskFlag(c, &e.disks)
	wipeFlag(c, &r.Wipe)
	fl.BoolVar(&r.DryRun, "dry-run", false, "do all that comes before the first change, and stop")
	fl.StringVar(&r.ExtraFiles, "extra-files", "", "folder whose contents are copied over the new root, with modes and owners; whoever owns the folder becomes root")
	fl.DurationVar(&r.Permit, "permit", 24*time.Hour, "how long the machine has to start its install")
	// It errs only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc("board", completeWays(append(images.BoardNames(), web.AutoBoard)...))
	_ = c.RegisterFlagCompletionFunc("boot-method", cobra.FixedCompletions(
		[]string{"binl", "first", "header", "plain", "snponly", "native", "pi", "u-boot"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("generate-hardware-config", completeWays(hosts.GenerateConfig, hosts.Facter))
	_ = c.RegisterFlagCompletionFunc("proof", completeWays("ssh", "seen", "none"))
	_ = c.RegisterFlagCompletionFunc("build-on", completeWays("server", "target", "auto"))
	_ = c.RegisterFlagCompletionFunc("boot-order", completeWays("disk-first", "keep"))
	_ = c.RegisterFlagCompletionFunc("disko", completeWays("fresh", "format", "mount", "script"))
	_ = c.RegisterFlagCompletionFunc("via", completeVias)
	_ = c.RegisterFlagCompletionFunc("layout", func(c *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return completePresets(c, nil, typed)
	})
}

// parse checks the flags and completes the request, but for MACs and name.
func (e *enrolment) parse(c *cobra.Command) (err error) {
	r := &e.request
	if r.BootMethod != "" {
		if _, err := hosts.ParseMethod(r.BootMethod); err != nil {
			return errUsage{err}
		}
	}
	if _, err := images.ParseBoard(r.Board); err != nil && r.Board != web.AutoBoard {
		return errUsage{fmt.Errorf("--board: %w", err)}
	}
	if _, err := hosts.ParseDisko(r.Disko); err != nil {
		return errUsage{err}
	}
	if _, err := images.ParseKernelParams(r.KernelParams); err != nil {
		return errUsage{err}
	}
	if _, err := hosts.ParseVia(r.Via); err != nil {
		return errUsage{err}
	}
	if r.Layout != "" && r.Layout != hosts.NoLayout {
		if _, err := disko.FindPreset(r.Layout); err != nil {
			return errUsage{err}
		}
	}
	if _, err := hosts.ParseProof(r.Proof); err != nil {
		return errUsage{err}
	}
	if err := e.parseBuild(); err != nil {
		return errUsage{err}
	}
	if r.Disks, err = disko.ParseDisks(e.disks); err != nil {
		return errUsage{fmt.Errorf("--disk: %w", err)}
	}
	if c.Flags().Changed("tpm2") {
		if _, err := hosts.ParsePCRs(r.TPM2); err != nil {
			return errUsage{err}
		}
	}
	if slices.Contains(r.Wipe, "") {
		return errUsage{errors.New("--wipe: name a disk by its serial number")}
	}
	if err := e.secret.read(c, r); err != nil {
		return err
	}
	if r.ExtraFiles != "" {
		if r.ExtraFiles, err = filepath.Abs(r.ExtraFiles); err != nil {
			return err
		}
	}
	return nil
}

// parseBuild checks what is said about the build.
func (e *enrolment) parseBuild() (err error) {
	r := &e.request
	if r.StorePath != "" {
		if r.StorePath, err = filepath.Abs(r.StorePath); err != nil {
			return err
		}
	}
	o := hosts.Options{Disko: hosts.Disko(r.Disko), StorePath: r.StorePath}
	if o.Hardware, err = hosts.ParseHardware(r.GenerateHardware, "HOST"); err != nil {
		return err
	}
	if o.BuildOn, err = hosts.ParseBuildOn(r.BuildOn); err != nil {
		return err
	}
	if _, err := hosts.ParseBootOrder(r.BootOrder); err != nil {
		return err
	}
	if _, err := hosts.ParseCopyOver(r.CopyOver); err != nil {
		return err
	}
	return o.CheckBuild()
}

// agreed is the request, with what the operator agrees to.
func (e *enrolment) agreed(a web.Agreement) any {
	e.request.Agreement = a
	return e.request
}

// tell says what an enrolled host shall be.
func tell(c *cobra.Command, api *client, s web.Status) {
	fmt.Fprintf(c.OutOrStdout(), "%s shall become %s, with image %s.\n", strings.Join(s.MACs, ", "), s.Name, s.Image)
	fmt.Fprintf(c.OutOrStdout(), "Its SSH host key: %s\n", s.HostKey)
	for _, what := range s.Slow {
		fmt.Fprintf(c.OutOrStdout(), "Note: %s.\n", what)
	}
	warn(c, s)
	if len(s.EscrowTo) > 0 {
		fmt.Fprintf(c.OutOrStdout(), "Its disk passphrases are in escrow: provision secrets %s\n", s.Name)
	}
	sayNamesake(c, api, s)
}

// warn prints what to know before the host is installed.
func warn(c *cobra.Command, s web.Status) {
	for _, what := range s.Warnings {
		fmt.Fprintf(c.OutOrStdout(), "Warning: %s.\n", what)
	}
}

func completeWays(ways ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(ways, cobra.ShellCompDirectiveNoFileComp)
}

// permission is what the permit allows, and until when.
func permission(s web.Status) string {
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

// diskFlag adds --disk, for disko.ParseDisks.
func diskFlag(c *cobra.Command, disks *[]string) {
	c.Flags().StringArrayVar(disks, "disk", nil, "NAME=DISK: the disk to take for the layout's NAME: serial:SERIAL, wwn:WWN, largest, smallest-nvme and so on, or a path")
}

// wipeFlag adds --wipe, for disko.Plan.Wiped.
func wipeFlag(c *cobra.Command, disks *[]string) {
	c.Flags().StringArrayVar(disks, "wipe", nil, "DISK: take this disk even if it is removable, in use, another host's, or holds Windows, LUKS, ZFS or the like: its serial number, WWN, or a path below /dev/disk")
}
