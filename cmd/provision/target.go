package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"provision/internal/handover"
)

const targetHelp = `What the server runs on a machine that is up and shall be installed again. It
uploads this program there, and runs it over SSH; nobody needs to do so by hand.`

// targetCommand is `provision target`.
func targetCommand() *cobra.Command {
	c := &cobra.Command{Use: "target", Short: "run on a machine that is to be " +
		"installed", Long: targetHelp, Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errUsage{errors.New("target needs facts, kexec-load, kexec-unload, kexec-start or boot-next")}
		}}
	var here handover.Machine
	c.AddCommand(
		&cobra.Command{Use: "facts", Short: "print what this machine is, as JSON", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				facts, err := here.Facts(c.Context())
				if err != nil {
					return err
				}
				return printJSON(c.OutOrStdout(), facts)
			}},
		&cobra.Command{Use: "kexec-load", Short: "load the kernel and the initrd on stdin", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				if err := here.KexecLoad(c.Context(), c.InOrStdin()); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.OutOrStdout(), "loaded")
				return err
			}},
		&cobra.Command{Use: "kexec-unload", Short: "forget what is loaded", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return here.KexecUnload() }},
		&cobra.Command{Use: "kexec-start", Short: "start what is loaded, at once", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				return here.KexecStart(c.Context(), c.OutOrStdout())
			}},
		bootNextCommand(here),
	)
	return c
}

// bootNextCommand is `provision target boot-next`.
func bootNextCommand(here handover.Machine) *cobra.Command {
	var macs, restore string
	var http, clear bool
	c := &cobra.Command{Use: "boot-next --mac MAC[,MAC] [--http] | --clear | --restore ENTRY",
		Short: "make the firmware netboot next time", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var done handover.BootNext
			var err error
			given := 0
			for _, flag := range []string{"mac", "clear", "restore"} {
				if c.Flags().Changed(flag) {
					given++
				}
			}

			switch {
			case given != 1:
				return errUsage{errors.New("boot-next needs one of --mac, --clear and --restore")}
			case clear:
				return here.ClearBootNext()
			case c.Flags().Changed("restore"):
				done, err = here.RestoreBootNext(restore)
			default:
				var cards []net.HardwareAddr
				if cards, err = parseCards(macs); err != nil {
					return errUsage{err}
				}
				done, err = here.SetBootNext(cards, http)
			}
			if err != nil {
				return err
			}

			return printJSON(c.OutOrStdout(), done)
		}}
	c.Flags().StringVar(&macs, "mac", "", "MAC addresses of the network cards that may netboot")
	c.Flags().BoolVar(&http, "http", false, "by HTTP rather than PXE")
	c.Flags().BoolVar(&clear, "clear", false, "leave the firmware to its usual order")
	c.Flags().StringVar(&restore, "restore", "", "the entry that was next before, such as Boot0001")
	return c
}

// parseCards reads MAC addresses that are separated by commas.
func parseCards(list string) (cards []net.HardwareAddr, err error) {
	for text := range strings.SplitSeq(list, ",") {
		card, err := net.ParseMAC(strings.TrimSpace(text))
		if err != nil || len(card) != 6 {
			return nil, fmt.Errorf("MAC address %q: write six bytes in hexadecimal, such as 52:54:00:12:34:56", text)
		}
		cards = append(cards, card)
	}
	return cards, nil
}
