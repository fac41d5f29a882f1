package main

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"provision/internal/api"
	"provision/internal/enroll"
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

// setCommand is `provision set`.
func setCommand(daemon *api.Client) *cobra.Command {
	var r enroll.SetRequest
	var serial string
	c := &cobra.Command{
		Use:               "set HOST",
		Short:             "change a host's machine, image or boot",
		Long:              setHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			r.Named = givenChoices(c, toSet)
			if c.Flags().Changed("serial") {
				r.Serial = &serial
			}
			if err := checkSet(c, r); err != nil {
				return errUsage{err}
			}

			var a api.SetAnswer
			if err := daemon.Call(c.Context(), http.MethodPatch, api.HostPath(args[0], ""), r, &a); err != nil {
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
		},
	}
	choiceFlags(c, &r.Choices, toSet)
	c.Flags().StringSliceVar(&r.MACs, "mac", nil, "the machine's MACs; +MAC adds one to those that it has, and "+
		"-MAC takes one away")
	c.Flags().StringVar(&serial, "serial", "", "serial number of its Raspberry Pi, 8 hex digits; empty: the next "+
		"one that asks with its MAC is taken for it")
	return c
}

// checkSet returns an error if nothing is to change, or if the server would refuse it.
func checkSet(c *cobra.Command, r enroll.SetRequest) error {
	if c.Flags().Changed("mac") && len(r.MACs) == 0 {
		return errors.New("--mac: write a MAC address; --mac=-MAC takes one away")
	}
	if r.MACs == nil && r.Serial == nil && len(r.Named) == 0 {
		return errors.New("set needs something to change, such as --mac or --image; see `provision set --help`")
	}
	return checkChoices(r.Choices)
}
