package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/store"
)

const stateHelp = `What the server keeps in its state folder: look at it, copy it, mend it.

The server looks at all of it when it starts. It keeps copies in the folder
"copies", made when it starts and an hour after a host changed: the newest, and
the first of each of the last three days. Before a newer version changes the
format, a copy is kept, too. In a copy no permit lives and no boot is open: what
was burned since is not known.

Copies do not hold secrets.key, without which no secret in them can be read.

  provision state check
  provision state backup /mnt/backup/provision.db
  provision state restore`

// defaultState is the default state folder of the server.
const defaultState = "/var/lib/provision"

// stateCommands are the subcommands of state, for a state folder.
type stateCommands struct {
	daemon *api.Client
	dir    string
}

func (s *stateCommands) path(name string) string { return filepath.Join(s.dir, name) }

// stateCommand is `provision state`.
func stateCommand(daemon *api.Client) *cobra.Command {
	s := &stateCommands{daemon: daemon}
	c := &cobra.Command{Use: "state", Short: "check, back up and restore what the server keeps", Long: stateHelp,
		Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.PersistentFlags().StringVar(&s.dir, "state-dir", defaultState, "state folder of the server")
	check := &cobra.Command{Use: "check [FILE]", Args: cobra.MaximumNArgs(1),
		Short: "look for damage in the store, its copies and the leases",
		Long: "Look at all of the store, its copies and the leases, or at a copy elsewhere. " +
			"Exit status 1: one of them is damaged.",
		RunE: func(c *cobra.Command, args []string) error { return s.check(c, args) }}
	backup := &cobra.Command{Use: "backup FILE", Args: cobra.ExactArgs(1),
		Short: "write a copy of the store, also while the server runs",
		RunE:  func(c *cobra.Command, args []string) error { return s.backup(c, args[0]) }}
	restore := &cobra.Command{Use: "restore [FILE]", Args: cobra.MaximumNArgs(1),
		Short: "go on from a copy, while the server is stopped",
		Long: "Go on from a copy (default: the newest good one). No permit in it lives. " +
			"The server must be stopped.",
		RunE: func(c *cobra.Command, args []string) error { return s.restore(c.OutOrStdout(), args) }}
	setAside := &cobra.Command{Use: "set-aside RECORD", Args: cobra.ExactArgs(1),
		Short: "put a damaged record aside, such as host/bravo",
		Long:  "Put a damaged record aside, such as host/bravo, also while the server runs.",
		RunE:  func(c *cobra.Command, args []string) error { return s.setAside(c, args[0]) }}
	var yes bool
	drop := &cobra.Command{Use: "drop-secrets", Args: cobra.NoArgs,
		Short: "remove secrets that nobody can read any more",
		Long:  "Remove the secrets that cannot be read any more because secrets.key is lost.",
		RunE:  func(c *cobra.Command, _ []string) error { return s.dropSecrets(c.OutOrStdout(), yes) }}
	drop.Flags().BoolVar(&yes, "yes", false, "do it")
	c.AddCommand(check, backup, restore, setAside, drop)
	return c
}

func (s *stateCommands) check(c *cobra.Command, args []string) error {
	out := c.OutOrStdout()
	if len(args) > 0 {
		found, err := store.CheckFile(args[0])
		return sayCheck(out, args[0], found, err)
	}
	found, err := store.CheckIdle(s.path(storeFile))
	if running(err) {
		found, err = s.checkRunning(c)
	}

	errs := []error{sayCheck(out, s.path(storeFile), found, err)}
	skipped, err := store.CheckJournal(s.path(leaseFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err == nil && skipped > 0:
		errs = append(errs, fmt.Errorf("%s has %d bytes that are no whole records; the server goes on without them",
			s.path(leaseFile), skipped))
	default:
		errs = append(errs, err)
	}

	copies, err := store.Copies(s.path(storeFile))
	for _, kept := range copies {
		found, err := store.CheckFile(kept.Path)
		errs = append(errs, sayCheck(out, kept.Path, found, err))
	}

	return errors.Join(append(errs, err)...)
}

// running reports whether an error means that the server has to be asked: it has the store open, or only it may open
// it.
func running(err error) bool {
	return errors.Is(err, store.ErrInUse) || errors.Is(err, os.ErrPermission)
}

// checkRunning checks a copy that the server makes.
func (s *stateCommands) checkRunning(c *cobra.Command) (store.Check, error) {
	tmp, err := os.MkdirTemp("", "provision-check-")
	if err != nil {
		return store.Check{}, err
	}
	defer os.RemoveAll(tmp)
	return s.download(c, filepath.Join(tmp, storeFile))
}

// download writes a copy that the server makes into a new file, and checks it. If no server runs, it copies the store
// itself.
func (s *stateCommands) download(c *cobra.Command, path string) (store.Check, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return store.Check{}, err
	}
	defer f.Close()
	err = store.Backup(f, s.path(storeFile))
	if running(err) {
		var body io.ReadCloser
		if body, err = s.daemon.Do(c.Context(), http.MethodGet, api.StatePath, nil); err == nil {
			_, err = io.Copy(f, body)
			err = errors.Join(err, body.Close())
		}
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		return store.Check{}, err
	}
	return store.CheckFile(path)
}

// sayCheck prints the result of a check; the error says what is damaged.
func sayCheck(out io.Writer, path string, found store.Check, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d hosts, %d records, format %d\n", path, found.Kinds["host"], found.Records, found.Format)
	if found.Reverted {
		err = fmt.Errorf("%s: of its last two transactions one is damaged; the server goes on with the other, with "+
			"no permit",
			path)
	}
	for _, key := range found.Damaged {
		err = errors.Join(err, fmt.Errorf("%s: the record %s is damaged; `provision state set-aside %s` puts it aside",
			path, key, key))
	}

	return err
}

func (s *stateCommands) backup(c *cobra.Command, file string) error {
	found, err := s.download(c, file)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already; choose another name", file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("back up the store: %w", err), os.Remove(file))
	}
	if err := sayCheck(c.OutOrStdout(), file, found, nil); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "Its secrets can be read with %s only: keep a copy of that, too, in another place.\n",
		s.path(keyFile))
	return nil
}

func (s *stateCommands) restore(out io.Writer, args []string) error {
	path := s.path(storeFile)
	var from string
	if len(args) > 0 {
		from = args[0]
	} else {
		newest, ok := store.NewestGood(path)
		if !ok {
			return fmt.Errorf("there is no good copy beside %s: name a file", path)
		}
		from = newest.Path
	}

	found, err := store.Restore(path, from)
	if errors.Is(err, store.ErrInUse) {
		return fmt.Errorf("%w: stop the server first", err)
	}
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "%s is %s now. When the server starts, all permits in it are withdrawn: "+
		"enroll again what is to be installed.\nWhat was there is kept as %s.replaced.\n", path, from, path)
	return sayCheck(out, path, found, nil)
}

func (s *stateCommands) setAside(c *cobra.Command, key string) error {
	db, err := store.OpenBolt(s.path(storeFile))
	if err == nil {
		err = errors.Join(s.setAsideIn(db, key), db.Close())
	} else if running(err) {
		err = s.daemon.Call(c.Context(), http.MethodPost, api.SetAsidePath, api.SetAsideRequest{Record: key}, nil)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s is set aside.\n", key)
	return nil
}

// setAsideIn sets a record aside in a store that no server has open.
func (s *stateCommands) setAsideIn(db *store.Bolt, key string) error {
	vault, err := hosts.VaultOf(db, s.path(keyFile))
	if err != nil {
		return err
	}
	inventory, err := hosts.New(db, vault, time.Now)
	if err != nil {
		return err
	}
	return inventory.SetAside(key, "an operator, while no server ran")
}

func (s *stateCommands) dropSecrets(out io.Writer, yes bool) error {
	db, err := store.OpenBolt(s.path(storeFile))
	if err != nil {
		return err
	}

	n, err := 0, error(nil)
	switch _, lost := hosts.VaultOf(db, s.path(keyFile)); {
	case lost == nil:
		err = fmt.Errorf("%s opens the secrets of the store: none is lost", s.path(keyFile))
	case !yes:
		err = errUsage{fmt.Errorf("%w. With --yes they are removed", lost)}
	default:
		n, err = hosts.DropSecrets(db)
	}

	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}

	err = os.Rename(s.path(keyFile), s.path(keyFile)+".replaced")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}

	fmt.Fprintf(out, "%d secrets are removed. When the server starts, it makes a new key, and withdraws all "+
		"permits.\n", n)
	return nil
}
