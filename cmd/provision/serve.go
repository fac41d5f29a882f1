package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
	"provision/installer"
	"provision/internal/api"
	"provision/internal/cache"
	"provision/internal/enroll"
	"provision/internal/nix"
	"provision/internal/store"
	"provision/pxe"
)

// serveFlags are the options of serve as they were typed.
type serveFlags struct {
	flake, dhcp, http, stateDir, unknown string
	router, domain, group, programs      string
	ifaces, dhcpRanges, relays, dns      []string
	lease, liveWithin                    time.Duration
	nixOptions                           []string
	evaluations, builds, tftpBlksize     int
	impure, acceptConfig                 bool
	verbose                              bool
	config                               string
	checkOnly                            bool
}

const serveHelp = `Answer machines that netboot, and install the enrolled ones.

  --dhcp proxy   beside your router's DHCP server; gives no addresses
  --dhcp server  be the DHCP server, with --dhcp-range; only enrolled machines
                 get an address, unless --unknown says lease or hold
  --dhcp off     TFTP and HTTP only; "provision doctor --dhcp off" prints what
                 your own DHCP server needs to send machines here

Needs root (or CAP_NET_BIND_SERVICE, CAP_NET_RAW), nix and ssh.

A flake in a folder of another user's is read as that user, by root too: nix
and git run what its settings name. Nothing is written into it.

--config FILE takes the options from a file in TOML. Its keys are the flags
below, without the dashes; what the command line says goes before it. Paths
are relative to the folder that the server is started in, as for the flags.
--check looks at the file and the flags, and starts nothing.

  provision serve --flake ~/fleet --interface br0
  provision serve --config /etc/provision/config.toml --check
  provision serve --flake ~/fleet --interface br0 --dhcp server --dhcp-range 10.0.0.100-10.0.0.199`

func serveCommand(socket *string) *cobra.Command {
	var f serveFlags
	c := &cobra.Command{Use: "serve --flake REF --interface IF | --config FILE", Short: "answer machines that " +
		"netboot, and install them", Long: serveHelp,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var file *configFile
			if f.config != "" {
				var err error
				if file, err = readConfig(f.config, c.Flags()); err != nil {
					return errUsage{err}
				}
			}

			if f.checkOnly {
				return file.locate(f.checkAll(c.OutOrStdout(), *socket))
			}
			level := slog.LevelInfo
			if f.verbose {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return file.locate(serve(c.Context(), f, *socket, log))
		}}
	fl := c.Flags()
	fl.StringVar(&f.flake, "flake", "", "flake with nixosConfigurations (a folder, or any flake reference)")
	fl.StringSliceVar(&f.ifaces, "interface", nil, "network interfaces on the machines' LANs; NAME=ADDRESS chooses "+
		"among several addresses, one that is not there is waited for")
	fl.StringVar(&f.dhcp, "dhcp", "proxy", "proxy, server or off")
	fl.StringSliceVar(&f.dhcpRanges, "dhcp-range", nil, "addresses to hand out, FIRST-LAST, one range for each "+
		"LAN; FIRST-LAST/BITS behind a relay (with --dhcp server)")
	fl.StringSliceVar(&f.relays, "relay", nil, "a relay agent's address, or better the network behind it, whose "+
		"machines are answered, too")
	fl.StringVar(&f.router, "dhcp-router", "", "default route to hand out (with --dhcp server)")
	fl.StringSliceVar(&f.dns, "dhcp-dns", nil, "DNS servers to hand out (with --dhcp server)")
	fl.StringVar(&f.domain, "dhcp-domain", "", "domain to hand out (with --dhcp server)")
	fl.DurationVar(&f.lease, "dhcp-lease", time.Hour, "how long a lease lasts (with --dhcp server)")
	fl.StringVar(&f.http, "http", ":80", "port that machines fetch kernel and initrd from")
	fl.IntVar(&f.tftpBlksize, "tftp-blksize", 0, "bytes that a block has at most over TFTP, 512 to 65464 (default: "+
		"what the LAN takes)")
	fl.StringVar(&f.programs, "ipxe", "", "folder with iPXE programs of your own, such as snponly.efi, beside "+
		"those built in")
	fl.StringVar(&f.stateDir, "state-dir", defaultState, "folder for inventory, keys and images")
	fl.StringVar(&f.unknown, "unknown", "ignore", "what unknown machines get: ignore; lease, an address and nothing "+
		"to boot (with --dhcp server); or hold, an address with --dhcp server and a screen that tells how to enroll them")
	fl.StringVar(&f.group, "socket-group", "", "group whose members may use the server: they can erase machines, "+
		"and have the server, which is root, build and deliver what they say; add nobody who is not to be root here")
	fl.DurationVar(&f.liveWithin, "live-within", 15*time.Minute, "how long a machine may take from its boot until "+
		"its installer answers")
	fl.IntVar(&f.evaluations, "evaluations", 0, "how many hosts nix evaluates at a time (default: one for each "+
		"core, with a GiB of memory for each)")
	fl.IntVar(&f.builds, "builds", 0, "how many hosts nix builds at a time (default: the same)")
	fl.StringArrayVar(&f.nixOptions, "nix-option", nil, "a setting of nix.conf, NAME=VALUE, for each nix that the "+
		"server runs (may be given several times)")
	fl.BoolVar(&f.impure, "impure", false, "let the flake look at what is outside it: <nixpkgs>, "+
		"builtins.currentSystem, the environment")
	fl.BoolVar(&f.acceptConfig, "accept-flake-config", false, "heed the flake's nixConfig, such as its "+
		"substituters: whoever can change the flake then sets how nix runs here")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "log every decision")
	fl.StringVar(&f.config, "config", "", "file in TOML with these flags as keys, such as interface = [\"br0\"]")
	fl.BoolVar(&f.checkOnly, "check", false, "only check the options, and change nothing: exit status 0 if serve "+
		"could start with them")
	for flag, values := range map[string][]string{"dhcp": {"proxy", "server", "off"}, "unknown": {"ignore", "lease", "hold"}} {
		// It errs only for a flag that does not exist.
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}

	return c
}

// serve wires everything. What can be wrong is found before anything answers.
func serve(ctx context.Context, f serveFlags, socket string, log *slog.Logger) (err error) {
	pxeServer, settings, err := f.check()
	if err != nil {
		return err
	}

	// A thousand machines at once take a sixth less memory so, for a thirtieth more of processor time.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	systemd := newNotifier(log)
	begun := newStart(f.stateDir, filepath.Dir(socket))
	if err := os.MkdirAll(f.stateDir, 0o700); err != nil {
		return errors.Join(fmt.Errorf("make the state folder: %w", err), begun.undo())
	}

	mode, err := closeFolder(f.stateDir)
	if err != nil {
		return errors.Join(err, begun.undo())
	}

	if mode&0o077 != 0 {
		log.Info("the state folder was open to others, and is the server's alone now", "folder", f.stateDir, "was", fmt.Sprintf("%04o", mode))
	}
	storePath := filepath.Join(f.stateDir, storeFile)
	db, err := store.OpenBolt(storePath)
	if err != nil {
		return errors.Join(err, begun.undo())
	}
	defer db.Close()

	begun.locked = true
	serving := false
	defer func() { // before the store is closed, and thus open to another server
		if !serving {
			err = errors.Join(err, begun.undo())
		}
	}()

	temp, err := tempFolder(f.stateDir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)

	systemd.tell("STATUS=opening the inventory, once this machine's clock is set")
	inventory, clock, err := openInventory(ctx, db, f.stateDir, log)
	if err != nil || ctx.Err() != nil {
		return err
	}

	pxeServer.Now = clock.Now
	leases, err := store.OpenJournal(filepath.Join(f.stateDir, leaseFile))
	if err != nil {
		return err
	}
	defer leases.Close()

	if leases.Damage != "" {
		log.Warn("some of the lease journal could not be read", "what", leases.Damage)
	}
	if err := leases.Adopt(ctx, db, pxe.LeasePrefix); err != nil {
		return err
	}

	catalog, err := images.Open(filepath.Join(f.stateDir, "images"))
	if err != nil {
		return err
	}

	catalog.Build = settings.Build
	key, err := inventory.ServerKey()
	if err != nil {
		return err
	}

	login, err := writeLogin(key, f.stateDir)
	if err != nil {
		return err
	}

	slots := nix.QueueSlots()
	builder := nix.Builder{
		Settings:    settings,
		Roots:       filepath.Join(f.stateDir, "roots"),
		Evaluations: nix.NewQueue(cmp.Or(f.evaluations, slots)),
		Builds:      nix.NewQueue(cmp.Or(f.builds, slots)),
		Looks:       nix.NewQueue(slots),
	}
	traces := &hosts.Traces{Now: clock.Now}
	pxeServer.Hosts = inventory
	pxeServer.Leases = leases
	pxeServer.Images = catalog
	pxeServer.Traces = traces
	pxeServer.Login = login
	pxeServer.Log = log
	closures := new(cache.Cache)
	pxeServer.Cache = closures
	install := &installer.Installer{
		Hosts:      inventory,
		Images:     catalog,
		Nix:        builder,
		Cache:      closures,
		CachePort:  pxeServer.HTTPPort,
		Key:        key,
		LiveWithin: f.liveWithin,
		Log:        log,
		Now:        clock.Now,
		Program:    program,
		Temp:       sshFolder(temp),
		Wake: func(ctx context.Context, mac string) (err error) {
			for iface := range pxeServer.Addresses() {
				err = errors.Join(err, installer.Wake(ctx, iface, mac))
			}
			return err
		},
	}
	service := &enroll.Service{
		Flake:        f.flake,
		Hosts:        inventory,
		Images:       catalog,
		Prepare:      installer.Prepare,
		CheckAddress: pxeServer.CheckAddress,
		NoDHCP:       f.dhcp == "off",
		Evaluate:     evaluator(builder),
	}
	operator := &api.Server{
		Socket:     socket,
		Group:      f.group,
		Programs:   f.programs,
		Enroll:     service,
		Hosts:      inventory,
		Images:     catalog,
		Traces:     traces,
		Store:      db,
		Temp:       temp,
		Look:       install.ProbeMachine,
		Reach:      install.Reach,
		Interfaces: pxeServer.Addresses,
		Log:        log,
		Serving:    f.serving(pxeServer, login),
	}

	// All ports first: nothing may be installed by a server that cannot serve.
	if err := operator.Listen(ctx); err != nil {
		return err
	}
	if err := pxeServer.Listen(ctx); err != nil {
		return errors.Join(err, operator.Close())
	}

	serving = true
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range []func(context.Context) error{inventory.Run, pxeServer.Run, install.Run, operator.Run,
		operator.Measure} {
		g.Go(func() error { return task(ctx) })
	}

	g.Go(func() error {
		keepCopies(ctx, db, log)
		return nil
	})
	g.Go(func() error {
		lookAtFlake(ctx, settings, f.flake, log)
		return nil
	})
	self := liveness{
		inventory: inventory,
		daemon:    &api.Client{Socket: socket},
	}
	g.Go(func() error {
		systemd.run(ctx, self.check)
		return nil
	})
	return g.Wait()
}

// openInventory opens the inventory in a store, with a clock that never goes back. It waits until the machine's clock
// is set; if ctx ends meanwhile, there is none.
func openInventory(ctx context.Context, db *store.Bolt, dir string,
	log *slog.Logger) (*hosts.Inventory, *hosts.Clock, error) {
	for _, key := range db.Found.Damaged {
		log.Error("a record in the store is damaged; the rest goes on without it",
			"record", key, "remedy", "provision state set-aside "+key)
	}

	vault, err := hosts.VaultOf(db, filepath.Join(dir, keyFile))
	if err != nil {
		return nil, nil, err
	}

	clock, err := hosts.NewClock(db, time.Now)
	if err != nil {
		return nil, nil, err
	}

	if err := awaitClock(ctx, clock, filepath.Join(dir, storeFile), log); err != nil || ctx.Err() != nil {
		return nil, nil, err
	}

	why, err := store.Stale(ctx, db)
	if err != nil {
		return nil, nil, err
	}

	if why != "" {
		log.Warn("all permits are withdrawn", "why", why)
	}
	inventory, err := hosts.New(db, vault, clock.Now)
	return inventory, clock, err
}

// writeLogin writes the public half of the server's key into the state folder, for flakes that let the server log in,
// to prove what runs. It returns it in authorized_keys form.
func writeLogin(key *ed25519.PrivateKey, dir string) (string, error) {
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return "", err
	}
	login := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	return login, os.WriteFile(filepath.Join(dir, loginFile), []byte(login+" provision\n"), 0o644)
}

// evaluator reads what flakes say, before those that are being built.
func evaluator(builder nix.Builder) func(context.Context, string, string, hosts.Choices) (enroll.Evaluation, error) {
	return func(ctx context.Context, flake, host string, c hosts.Choices) (enroll.Evaluation, error) {
		config, layout, err := installer.Evaluate(ctx, builder.AtOnce(), flake, host, c)
		found := enroll.Evaluation{
			System: config.System,
			Layout: layout,
			Warnings: func(c hosts.Choices) []string {
				return slices.Concat(config.Warnings, installer.Warnings(config, host, c, layout))
			},
		}
		return found, err
	}
}

// serving is what the server tells of itself.
func (f *serveFlags) serving(server *pxe.Server, login string) api.Serving {
	return api.Serving{
		Version:           version,
		PID:               os.Getpid(),
		Flake:             f.flake,
		Impure:            f.impure,
		AcceptFlakeConfig: f.acceptConfig,
		WaitsFor:          f.names(),
		DHCP:              f.dhcp,
		HTTP:              server.HTTPPort,
		Hold:              server.Unknown == pxe.Hold,
		SSHKey:            login,
	}
}

// keepCopies keeps a copy of the store now, and one an hour after a host changed.
func keepCopies(ctx context.Context, db *store.Bolt, log *slog.Logger) {
	changed := db.Watch(ctx, "host/")
	due := time.After(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if due == nil {
				due = time.After(time.Hour)
			}
		case <-due:
			due = nil
			path, err := db.Keep()
			if err != nil {
				log.Warn("no copy of the store was kept", "err", err)
				continue
			}
			log.Debug("a copy of the store was kept", "path", path)
		}
	}
}

// lookAtFlake says early what will be in the way of hosts: a flake that cannot be had now, for the network may come
// later, or what nix warns of.
func lookAtFlake(ctx context.Context, settings nix.Settings, ref string, log *slog.Logger) {
	flake, err := settings.Open(ref)
	var warnings []string
	if err == nil {
		var m nix.Metadata
		m, err = flake.Metadata(ctx)
		warnings = m.Warnings
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		log.Warn("the flake cannot be read now; it is tried again for each host", "flake", ref, "err", err)
	default:
		for _, warning := range warnings {
			log.Warn("the flake", "flake", ref, "warning", warning)
		}
	}
}

// nix is how nix is to be run.
func (f *serveFlags) nix() (nix.Settings, error) {
	s := nix.Settings{Impure: f.impure, AcceptConfig: f.acceptConfig}
	for _, text := range f.nixOptions {
		o, err := nix.ParseOption(text)
		if err != nil {
			return s, fmt.Errorf("--nix-option %w", err)
		}
		s.Options = append(s.Options, o)
	}
	return s, nil
}

// names are those of the interfaces, without the addresses that were chosen.
func (f *serveFlags) names() (names []string) {
	for _, text := range f.ifaces {
		name, _, _ := strings.Cut(text, "=")
		names = append(names, name)
	}
	return names
}

// pxe is the options for the booting machines' side, parsed.
func (f *serveFlags) pxe() (*pxe.Server, error) {
	if f.flake == "" {
		return nil, errors.New("serve needs --flake REF, such as --flake ~/fleet")
	}
	if strings.Contains(f.flake, "#") {
		return nil, fmt.Errorf("--flake %s: leave out what follows '#'; hosts are named when they are "+
			"enrolled", f.flake)
	}

	// The server's folder may differ from the one in which a flake was typed.
	if _, err := os.Stat(f.flake); err == nil {
		if f.flake, err = filepath.Abs(f.flake); err != nil {
			return nil, err
		}
	}

	if len(f.ifaces) == 0 {
		return nil, errors.New("serve needs --interface IF, the network interface on the machines' LAN")
	}
	for _, text := range f.ifaces {
		if err := pxe.CheckInterface(text); err != nil {
			return nil, fmt.Errorf("--interface: %w", err)
		}
	}

	names := f.names()
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("--interface %s: %s is named twice", strings.Join(f.ifaces, ","), name)
		}
	}

	port, err := strconv.Atoi(strings.TrimPrefix(f.http, ":"))
	if err != nil {
		return nil, fmt.Errorf("--http %s: write a port, such as :8080", f.http)
	}

	unknown := pxe.Unknown(f.unknown)
	if !slices.Contains([]pxe.Unknown{pxe.Ignore, pxe.Lease, pxe.Hold}, unknown) {
		return nil, fmt.Errorf("--unknown %s: choose ignore, lease or hold", f.unknown)
	}
	if unknown == pxe.Lease && f.dhcp != string(pxe.Full) {
		return nil, fmt.Errorf("--unknown lease goes with --dhcp server: with %s, another DHCP server hands out the "+
			"addresses", f.dhcp)
	}
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("--http %s: ports go from 1 to 65535", f.http)
	}
	switch pxe.Mode(f.dhcp) {
	case pxe.Proxy, pxe.Off:
		for _, flag := range []struct {
			name  string
			given bool
		}{{"range", len(f.dhcpRanges) > 0}, {"router", f.router != ""}, {"dns", len(f.dns) > 0}, {"domain", f.domain != ""}} {
			if flag.given {
				return nil, fmt.Errorf("--dhcp-%s goes with --dhcp server: with %s, another DHCP server hands out "+
					"the addresses", flag.name, f.dhcp)
			}
		}
	case pxe.Full:
		if len(f.dhcpRanges) == 0 {
			return nil, errors.New("--dhcp server needs a range of addresses to hand out: --dhcp-range FIRST-LAST")
		}
	default:
		return nil, fmt.Errorf("--dhcp %s: choose proxy, server or off", f.dhcp)
	}

	if f.tftpBlksize != 0 && (f.tftpBlksize < 512 || f.tftpBlksize > 65464) {
		return nil, fmt.Errorf("--tftp-blksize %d: blocks have 512 to 65464 bytes", f.tftpBlksize)
	}
	s := &pxe.Server{
		Interfaces:  f.ifaces,
		TFTPBlksize: f.tftpBlksize,
		Programs:    f.programs,
		Mode:        pxe.Mode(f.dhcp),
		Domain:      f.domain,
		Lease:       f.lease,
		HTTPPort:    port,
		Unknown:     unknown,
		BootTime:    10 * time.Minute,
		Now:         time.Now,
	}
	if s.Lease < time.Minute {
		return nil, fmt.Errorf("--dhcp-lease %s: a minute at least", f.lease)
	}
	for _, text := range f.dhcpRanges {
		r, err := pxe.ParseRange(text)
		if err != nil {
			return nil, err
		}
		s.Ranges = append(s.Ranges, r)
	}

	for _, text := range f.relays {
		relay, err := pxe.ParseRelay(text)
		if err != nil {
			return nil, fmt.Errorf("--relay %s: %w", text, err)
		}
		s.Relays = append(s.Relays, relay)
	}

	if f.router != "" {
		if s.Router, err = parseIPv4("--dhcp-router", f.router); err != nil {
			return nil, err
		}
	}

	for _, d := range f.dns {
		a, err := parseIPv4("--dhcp-dns", d)
		if err != nil {
			return nil, err
		}
		s.DNS = append(s.DNS, a)
	}

	return s, nil
}

func parseIPv4(flag, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("%s %s: write an IPv4 address", flag, s)
	}
	return a, nil
}

// program is the path of this program for machines of an architecture.
func program(arch string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's file: %w", err)
	}
	goarch := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch]
	if goarch == runtime.GOARCH {
		return self, nil
	}
	other := filepath.Join(filepath.Dir(self), "provision-linux-"+goarch)
	if _, err := os.Stat(other); err != nil {
		return "", fmt.Errorf("a machine that is %s needs this program for it: put it at %s (make "+
			"release)", arch, other)
	}
	return other, nil
}
