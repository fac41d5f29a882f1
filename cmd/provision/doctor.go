package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/doctor"
	"provision/internal/nix"
	"provision/pxe"
)

const doctorHelp = `Find what keeps machines from netbooting, before or beside serve.

It looks at the LAN's DHCP servers, the ports, the firewall, the interfaces,
nix and ssh; and, if a server answers, at its images and at the machines that
asked and stopped on the way. What the server knows need not be given.

Each finding is a line with its remedy. Exit status 1 if one stops a boot.

  provision doctor --interface br0
  provision doctor --interface br0 --dhcp-config dnsmasq    # for --dhcp off`

// doctorFlags are the flags of doctor.
type doctorFlags struct {
	ifaces            []string
	dhcp, http, flake string
	config            string
	wait              time.Duration
	asJSON            bool
}

// doctorCommand is `provision doctor`.
func doctorCommand(daemon *api.Client) *cobra.Command {
	var f doctorFlags
	c := &cobra.Command{Use: "doctor [--interface IF]", Short: "find what keeps machines from " +
		"netbooting", Long: doctorHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d, hints, err := f.doctor(c.Context(), daemon)
			if err != nil {
				return err
			}

			if f.config != "" {
				return printRecipes(c.OutOrStdout(), d, f.config)
			}
			if os.Geteuid() != 0 {
				return errors.New("doctor needs root, to listen to the LAN and to read the firewall: sudo " +
					"provision doctor")
			}
			found := append(d.Run(c.Context()), hints...)
			if err := c.Context().Err(); err != nil {
				return err
			}

			if f.asJSON {
				err = printJSON(c.OutOrStdout(), found)
			} else {
				err = printFindings(c.OutOrStdout(), d, found)
			}
			if err == nil && !f.asJSON && d.Mode == pxe.Off && slices.ContainsFunc(found, noPointer) {
				fmt.Fprintln(c.OutOrStdout())
				err = printRecipes(c.OutOrStdout(), d, "all")
			}
			if err == nil && !doctor.Healthy(found) {
				err = errStatus{code: exitFailed}
			}

			return err
		}}
	fl := c.Flags()
	fl.StringSliceVar(&f.ifaces, "interface", nil, "network interfaces on the machines' LANs")
	fl.StringVar(&f.dhcp, "dhcp", "", "proxy, server or off, as for serve (default proxy)")
	fl.StringVar(&f.http, "http", "", "HTTP port, as for serve (default :80)")
	fl.StringVar(&f.flake, "flake", "", "flake to look at (default: the running server's)")
	fl.StringVar(&f.config, "dhcp-config", "", "only print the settings for another DHCP server, for --dhcp off: all, "+strings.Join(doctor.Recipes, ", "))
	fl.DurationVar(&f.wait, "wait", 4*time.Second, "how long to wait for DHCP servers (dnsmasq thinks for 3 seconds)")
	fl.BoolVar(&f.asJSON, "json", false, "print JSON (stable; an array of findings)")
	for flag, values := range map[string][]string{"dhcp": {"proxy", "server", "off"}, "dhcp-config": append([]string{"all"}, doctor.Recipes...)} {
		// The error would mean that the flag does not exist.
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}

	return c
}

// doctor returns the Doctor for the flags and the running server. The hints say what could not be checked.
func (f *doctorFlags) doctor(ctx context.Context,
	daemon *api.Client) (d *doctor.Doctor, hints []doctor.Finding, err error) {
	d = &doctor.Doctor{Interfaces: f.ifaces, Mode: pxe.Mode(f.dhcp), Flake: f.flake, Wait: f.wait, Now: time.Now}
	if f.http != "" {
		if d.HTTPPort, err = strconv.Atoi(strings.TrimPrefix(f.http, ":")); err != nil || d.HTTPPort < 1 || d.HTTPPort > 65535 {
			return nil, nil, errUsage{fmt.Errorf("--http %s: write a port, such as :8080", f.http)}
		}
	}

	if f.dhcp != "" && d.Mode != pxe.Proxy && d.Mode != pxe.Full && d.Mode != pxe.Off {
		return nil, nil, errUsage{fmt.Errorf("--dhcp %s: choose proxy, server or off", f.dhcp)}
	}
	if _, err := os.Stat(f.flake); f.flake != "" && err == nil { // nix would look up a bare name in its registry
		if d.Flake, err = filepath.Abs(f.flake); err != nil {
			return nil, nil, err
		}
	}
	if hints, err = askServer(ctx, daemon, d); err != nil {
		return nil, nil, err
	}

	d.Mode, d.HTTPPort = cmp.Or(d.Mode, pxe.Proxy), cmp.Or(d.HTTPPort, 80)
	if len(d.Interfaces) == 0 {
		return nil, nil, errUsage{errors.New("doctor needs --interface IF, the network interface on the machines' " +
			"LAN, since no server says it")}
	}
	return d, hints, nil
}

// askServer adds what a running server knows to d. It is not an error if none runs; a hint then says so.
func askServer(ctx context.Context, daemon *api.Client, d *doctor.Doctor) (hints []doctor.Finding, err error) {
	var serving api.Serving
	if err := daemon.Call(ctx, http.MethodGet, api.ServerPath, nil, &serving); err != nil {
		why, remedy, _ := strings.Cut(err.Error(), ": ")
		return []doctor.Finding{{Check: "server", Severity: doctor.Hint,
			What: why + ", so hosts, images and machines were not looked at", Remedy: remedy}}, nil
	}

	d.Server = &doctor.Server{
		Interfaces: make(map[string]netip.Addr),
		Mode:       pxe.Mode(serving.DHCP),
		HTTPPort:   serving.HTTP,
	}
	for _, name := range serving.WaitsFor {
		d.Server.Interfaces[name] = netip.Addr{}
	}
	for _, i := range serving.Interfaces {
		d.Server.Interfaces[i.Name] = i.Address
	}
	d.Mode, d.HTTPPort = cmp.Or(d.Mode, d.Server.Mode), cmp.Or(d.HTTPPort, d.Server.HTTPPort)
	d.Flake = cmp.Or(d.Flake, serving.Flake)
	d.Nix = nix.Settings{Impure: serving.Impure, AcceptConfig: serving.AcceptFlakeConfig}
	if len(d.Interfaces) == 0 {
		d.Interfaces = slices.Sorted(maps.Keys(d.Server.Interfaces))
	}
	var all []api.Status
	var slow []api.SlowLoad
	err = errors.Join(
		daemon.Call(ctx, http.MethodGet, api.SlowLoadsPath, nil, &slow),
		daemon.Call(ctx, http.MethodGet, api.HostsPath, nil, &all),
		daemon.Call(ctx, http.MethodGet, api.ImagesPath, nil, &d.Images),
		daemon.Call(ctx, http.MethodGet, api.TracesPath, nil, &d.Traces),
	)
	for _, s := range all {
		d.Hosts = append(d.Hosts, hosts.Host{
			Name:    s.Name,
			MACs:    s.MACs,
			State:   s.State,
			Phase:   s.Phase,
			Arch:    s.Arch,
			Permit:  s.Permit,
			Choices: hosts.Choices{Image: s.Image, BootMethod: s.Pinned},
		})
	}

	d.Verify = func(ctx context.Context, image string) error {
		return daemon.Call(ctx, http.MethodPost, api.ImagePath(image)+"/verify", nil, nil)
	}
	for _, l := range slow {
		hints = append(hints, doctor.Finding{Check: "machine", Severity: doctor.Hint, What: l.Host + ": " + l.What,
			Remedy: "choose HTTP boot in its firmware, if it has that; a shorter way to the server (no relay, no " +
				"slow switch) helps, too"})
	}

	return hints, err
}

// noPointer reports whether a finding says that no DHCP server points machines to this one, as one must with --dhcp
// off.
func noPointer(f doctor.Finding) bool { return f.Check == "dhcp" && f.Severity == doctor.Stop }

// printRecipes prints the settings for another DHCP server, or for all that are known.
func printRecipes(w io.Writer, d *doctor.Doctor, which string) error {
	address, err := doctor.Address(d.Interfaces[0])
	if err != nil {
		return err
	}

	names := []string{which}
	if which == "all" {
		names = doctor.Recipes
	}
	for i, name := range names {
		text, err := doctor.Recipe(name, address, d.HTTPPort)
		if err != nil {
			return errUsage{fmt.Errorf("--dhcp-config: %w", err)}
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprint(w, text)
	}

	return nil
}

// printFindings prints one line for each finding. On a terminal, the remedy is on a second line, as both rarely fit
// into one.
func printFindings(w io.Writer, d *doctor.Doctor, found []doctor.Finding) error {
	terminal := terminalOf(w) != nil && os.Getenv("TERM") != "dumb"
	between := " → "
	if terminal {
		between = "\n         → "
	}
	colors := map[doctor.Severity]string{doctor.Stop: "31;1", doctor.Warning: "33", doctor.Hint: "36"}
	for _, f := range found {
		word := paint(colors[f.Severity], fmt.Sprintf("%-7s", f.Severity), terminal && os.Getenv("NO_COLOR") == "")
		where := ""
		if f.Interface != "" {
			where = f.Interface + ": "
		}
		if _, err := fmt.Fprintf(w, "%s  %s%s%s%s\n", word, where, f.What, between, f.Remedy); err != nil {
			return err
		}
	}

	if slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Severity != doctor.Hint }) {
		return nil
	}
	_, err := fmt.Fprintf(w, "Nothing was found that would keep a machine from booting (%s, DHCP %s).\n", strings.Join(d.Interfaces, ", "), d.Mode)
	return err
}
