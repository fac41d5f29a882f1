package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// ipxeModule is the module that the boot programs are of.
const ipxeModule = "github.com/tinkerbell/ipxedust"

// buildFacts are what is known of a build.
type buildFacts struct {
	Version  string `json:"version"`          // of provision
	Commit   string `json:"commit,omitempty"` // of its source; empty: it was not built from a clone
	Modified bool   `json:"modified"`         // the source was not as the commit has it
	Go       string `json:"go"`
	Platform string `json:"platform"` // as Go writes it: linux/amd64
	IPXE     string `json:"ipxe"`     // version of the module with the boot programs
}

func thisBuild() buildFacts {
	f := buildFacts{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return f
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			f.Commit = s.Value
		case "vcs.modified":
			f.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if m.Path == ipxeModule {
			f.IPXE = m.Version
		}
	}
	return f
}

func versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "version", Short: "print the version, and what is built in", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f := thisBuild()
			if asJSON {
				return printJSON(c.OutOrStdout(), f)
			}
			t := table(c.OutOrStdout())
			t.row("provision", f.Version)
			switch {
			case f.Modified:
				t.row("commit", f.Commit+", and changes")
			case f.Commit != "":
				t.row("commit", f.Commit)
			}
			t.row("go", f.Go+" "+f.Platform)
			t.row("iPXE", ipxeModule+" "+f.IPXE)
			return t.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
