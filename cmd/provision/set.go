package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/images"
	"provision/internal/web"
)

const setHelp = `Change what is known of a host, or how it boots, without a decision to erase it. An
empty value is the default. What is chosen for an install (disks, layout, secrets) is
given to enroll and reinstall.

A host that has a permit keeps its MACs, its image and its board, for a permit is for a
machine: withdraw it first with provision cancel. Otherwise a MAC that another host has,
such as that of a dock, moves from there, and the logs of both tell it.

  provision set bravo --mac 52:54:00:12:34:56,52:54:00:12:34:57
  provision set bravo --mac=+52:54:00:aa:bb:cc
  provision set alpha --mac=-52:54:00:aa:bb:cc
  provision set bravo --kernel-param console=ttyS0,115200 --kernel-param nomodeset
  provision set bravo --address '' --image nixos`

// setFlags are those of set, as they were typed.
type setFlags struct {
	macs, params                              []string
	image, board, serial, address, bootMethod string
	bootOrder                                 string
}

func setCommand(api *client) *cobra.Command {
	var f setFlags
	c := &cobra.Command{Use: "set HOST", Short: "change a host's machine, image or boot", Long: setHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := f.request(c)
			if err != nil {
				return errUsage{err}
			}
			var a web.SetAnswer
			if err := api.call(c.Context(), http.MethodPatch, hostPath(args[0], ""), r, &a); err != nil {
				return err
			}
			if len(a.Changed) == 0 {
				fmt.Fprintf(c.OutOrStdout(), "%s is so already; nothing was changed.\n", args[0])
			}
			for _, what := range a.Changed {
				fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", args[0], what)
			}
			for _, note := range a.Notes {
				fmt.Fprintf(c.OutOrStdout(), "Note: %s.\n", note)
			}
			return nil
		}}
	fl := c.Flags()
	fl.StringSliceVar(&f.macs, "mac", nil, "the machine's MACs; +MAC adds one to those that it has, and -MAC takes one away")
	fl.StringVar(&f.image, "image", "", "installer image")
	fl.StringVar(&f.board, "board", "", "what the machine is; empty or auto: what it is recognised as when it asks")
	fl.StringVar(&f.serial, "serial", "", "serial number of its Raspberry Pi, 8 hex digits; empty: the next one that asks with its MAC is taken for it")
	fl.StringVar(&f.address, "address", "", "fixed IPv4 address (with serve --dhcp server)")
	fl.StringVar(&f.bootMethod, "boot-method", "", "the only way to answer its firmware, as for enroll; empty: whatever works")
	fl.StringVar(&f.bootOrder, "boot-order", "", "what its next install does to the firmware's boot order: "+
		"disk-first or keep, as for enroll; empty: keep")
	kernelParamFlag(c, &f.params)
	_ = c.RegisterFlagCompletionFunc("boot-order", completeWays("disk-first", "keep"))
	_ = c.RegisterFlagCompletionFunc("board", completeWays(append(images.BoardNames(), web.AutoBoard)...))
	return c
}

// kernelParamFlag adds --kernel-param, for images.ParseKernelParams.
func kernelParamFlag(c *cobra.Command, params *[]string) {
	c.Flags().StringArrayVar(params, "kernel-param", nil, "NAME[=VALUE] to add to the installer's kernel command line, such as console=ttyS0,115200 or nomodeset; empty: none")
}

// request is what the flags say; a flag that was not given changes nothing.
func (f *setFlags) request(c *cobra.Command) (r web.SetRequest, err error) {
	changed := c.Flags().Changed
	if changed("mac") {
		if r.MACs = f.macs; len(f.macs) == 0 {
			return r, errors.New("--mac: write a MAC address; --mac=-MAC takes one away")
		}
	}
	for flag, to := range map[string]**string{
		"image":       &r.Image,
		"board":       &r.Board,
		"serial":      &r.Serial,
		"address":     &r.Address,
		"boot-method": &r.BootMethod,
		"boot-order":  &r.BootOrder,
	} {
		if changed(flag) {
			value := c.Flags().Lookup(flag).Value.String()
			*to = &value
		}
	}
	if changed("kernel-param") {
		r.KernelParams = f.params
		if _, err := images.ParseKernelParams(f.params); err != nil {
			return r, err
		}
	}
	if f.board != "" && f.board != web.AutoBoard {
		if _, err := images.ParseBoard(f.board); err != nil {
			return r, fmt.Errorf("--board: %w", err)
		}
	}
	if f.bootMethod != "" {
		if _, err := hosts.ParseMethod(f.bootMethod); err != nil {
			return r, err
		}
	}
	if _, err := hosts.ParseBootOrder(f.bootOrder); err != nil {
		return r, err
	}
	if r.MACs == nil && r.KernelParams == nil && r.Image == nil && r.Board == nil && r.Serial == nil && r.Address == nil && r.BootMethod == nil && r.BootOrder == nil {
		return r, errors.New("set needs something to change, such as --mac or --image; see `provision set --help`")
	}
	return r, nil
}
