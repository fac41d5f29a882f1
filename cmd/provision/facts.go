package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"provision/disko"
)

const factsHelp = `Print what this machine's disks are, as JSON, for plan --facts. It changes
nothing. Run it as root on the machine itself:

  ssh root@bravo provision facts >facts.json`

// factsCommand is `provision facts`.
func factsCommand() *cobra.Command {
	return &cobra.Command{Use: "facts", Short: "print what this machine's disks are, for plan --facts", Long: factsHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("list the machine's disks: only root can read what is on them; run it as root")
			}
			probe := disko.Probe(nil)
			cmd := exec.CommandContext(c.Context(), probe[0], probe[1:]...)
			var said bytes.Buffer
			cmd.Stderr = &said
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("list the machine's disks: %w: %s", err, bytes.TrimSpace(said.Bytes()))
			}

			facts, err := disko.ReadProbe(out)
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), json.RawMessage(facts))
		}}
}
