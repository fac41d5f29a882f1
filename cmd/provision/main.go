// Command provision installs NixOS hosts over the network: see README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"provision/internal/api"
	"provision/internal/text"
)

// version is set by the Makefile.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitNotYet = 3 // what was waited for has not happened in time
)

// errUsage marks an error that is the command line's.
type errUsage struct{ error }

// errStatus ends the program with a status and, if it has one, a message.
type errStatus struct {
	code    int
	message string
}

func (e errStatus) Error() string { return e.message }

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// Much of what is printed is what machines and flakes say.
	stdout = &text.Writer{To: stdout}
	stderr = &text.Writer{To: stderr}
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var status errStatus
	var usage errUsage
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &status):
		if status.message != "" {
			fmt.Fprintln(stderr, "provision:", status.message)
		}
		return status.code
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "provision: %v\n", err)
		return exitUsage
	}

	fmt.Fprintf(stderr, "provision: %v\n", err)
	return exitFailed
}

const rootHelp = `provision turns machines on the LAN into NixOS hosts of your flake.

A machine is plugged in and netboots; because its MAC is known, it gets an
installer, its disks are set up as disko describes them, the host is
installed from the flake over SSH, and provision proves that it came up.

  provision serve --flake ~/fleet --interface br0 --dhcp proxy
  provision images add nixos --arch x86_64 --from ~/netboot
  provision enroll 52:54:00:12:34:56 bravo
  provision watch bravo`

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Version: version,
		Use:     "provision", Short: "install NixOS hosts over the network", Long: rootHelp,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(c, args[0])
	}
	root.SetVersionTemplate("provision {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) && isChoice(invalid.GetFlag()) {
			return errUsage{invalid.Unwrap()} // which names the flag, and what to write
		}
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			return errUsage{unknownFlag(c, unknown)}
		}
		return errUsage{fmt.Errorf("%w; see `%s --help`", err, c.CommandPath())}
	})
	daemon := &api.Client{}
	root.PersistentFlags().StringVar(&daemon.Socket, "socket", defaultSocket(), "Unix socket of the server (or set "+
		"PROVISION_SOCKET)")
	addGroup(root, "Install:",
		enrollCommand(daemon),
		installCommand(daemon),
		reinstallCommand(daemon),
		retryCommand(daemon),
		setCommand(daemon),
		cancelCommand(daemon),
		forgetCommand(daemon),
		restoreCommand(daemon),
	)
	addGroup(root, "Look:",
		statusCommand(daemon),
		watchCommand(daemon),
		waitCommand(daemon),
		logsCommand(daemon),
		planCommand(daemon),
		timelineCommand(daemon),
		discoveredCommand(daemon),
		doctorCommand(daemon),
		captureCommand(daemon),
	)
	addGroup(root, "Keys and secrets:",
		hostKeyCommand(daemon),
		secretsCommand(daemon),
	)
	addGroup(root, "The server, and what it serves:",
		serveCommand(&daemon.Socket),
		imagesCommand(daemon),
		layoutCommand(),
		stateCommand(daemon),
	)
	root.AddCommand(
		factsCommand(),
		versionCommand(),
		targetCommand(),
	)
	setUsage(root)
	for _, c := range root.Commands() {
		checkArgs(c)
	}
	return root
}

// addGroup adds commands under a heading of their own in help.
func addGroup(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, c := range commands {
		c.GroupID = title
	}
	root.AddCommand(commands...)
}

// checkArgs makes wrong arguments a wrong use, with the usage line as remedy.
func checkArgs(c *cobra.Command) {
	check := c.Args
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	c.Args = func(c *cobra.Command, args []string) error {
		err := check(c, args)
		if err != nil && c.HasSubCommands() && len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		if err == nil {
			err = c.ValidateFlagGroups() // cobra's own look at them comes too late to say how the command is used
		}
		if err != nil {
			return errUsage{fmt.Errorf("%w; use: %s", err, c.UseLine())}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		checkArgs(sub)
	}
}

func defaultSocket() string {
	if s := os.Getenv("PROVISION_SOCKET"); s != "" {
		return s
	}
	return "/run/provision/provision.sock"
}
