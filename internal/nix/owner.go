package nix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"provision/internal/text"
)

// Account is a user of this machine.
type Account struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups
	Name     string   // or the UID as text, if the user has no name
	home     string   // home folder; empty if there is none that belongs to the user
}

// String is its name, or its number if it has none.
func (a Account) String() string { return a.Name }

// chown returns the user and group as chown(1) takes them.
func (a Account) chown() string {
	if a.Name == strconv.Itoa(int(a.UID)) {
		return fmt.Sprintf("%d:%d", a.UID, a.GID)
	}
	return a.Name + ":"
}

// Another reports whether the server runs as root and this is another user, as whom it has to run what belongs to that
// user.
func (a Account) Another() bool { return os.Geteuid() == 0 && a.UID != 0 }

// account returns a user. One that has no name on this machine gets the given group, and no home.
func account(uid, gid uint32) Account {
	a := Account{UID: uid, GID: gid, Name: strconv.Itoa(int(uid))}
	u, err := user.LookupId(a.Name)
	if err != nil {
		return a
	}

	a.Name = u.Username
	if n, err := strconv.ParseUint(u.Gid, 10, 32); err == nil {
		a.GID = uint32(n)
	}
	if groups, err := u.GroupIds(); err == nil {
		for _, g := range groups {
			if n, err := strconv.ParseUint(g, 10, 32); err == nil {
				a.Groups = append(a.Groups, uint32(n))
			}
		}
	}
	if info, err := os.Stat(u.HomeDir); err == nil && info.IsDir() && info.Sys().(*syscall.Stat_t).Uid == uid {
		a.home = u.HomeDir
	}
	return a
}

// inherited are the variables that a command of another user gets from the server's environment: they say where things
// are on this machine, and none of them may hold a secret.
var inherited = []string{"PATH", "LANG", "LC_ALL", "LOCALE_ARCHIVE", "NIX_PATH", "NIX_CONF_DIR", "NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}

// As makes a command run as the user, with nothing else of the server's environment. home is its HOME if the user has
// none.
func (a Account) As(cmd *exec.Cmd, home string) {
	if a.home != "" {
		home = a.home
	}
	cmd.Env = []string{"HOME=" + home, "USER=" + a.Name, "LOGNAME=" + a.Name}
	for _, name := range inherited {
		if value, is := os.LookupEnv(name); is {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}

	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
	if cmd.Dir == "" {
		cmd.Dir = "/" // the server's own folder may not be accessible to the user
	}
}

// door gives another user's nix access to the server's store, which may be for root only: a nix daemon of root at a
// socket that only that user can open. The daemon does not trust the user, who thus cannot change any of root's
// settings.
type door struct {
	dir    string // belongs to the user, and has an empty home
	remote string // NIX_REMOTE for the user
	daemon *exec.Cmd
	said   lines // messages of the daemon
}

// doorDelay is how long the daemon may take to end, and how much longer the processes that it started, one for each
// connection, may run after that.
const doorDelay = 5 * time.Second

// openDoor starts the daemon with these environment variables. If root itself uses a daemon, the user uses that one.
func openDoor(ctx context.Context, a Account, env []string) (_ *door, err error) {
	d := new(door)
	if d.dir, err = os.MkdirTemp("", "provision-nix-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("let %s use the nix store: %w", a, err), d.close())
		}
	}()

	if remote := os.Getenv("NIX_REMOTE"); remote == "daemon" || strings.HasPrefix(remote, "unix://") {
		d.remote = remote
	} else if err := d.startDaemon(ctx, a, env); err != nil {
		return nil, err
	}

	home := filepath.Join(d.dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}

	// The folder comes last, as the user can change its contents from then on.
	if err := errors.Join(os.Chown(home, int(a.UID), int(a.GID)), os.Chown(d.dir, int(a.UID), int(a.GID))); err != nil {
		return nil, err
	}
	return d, nil
}

// startDaemon passes an open socket to the daemon, as systemd does (sd_listen_fds(3)), so that a client that connects
// early waits until the daemon is ready.
func (d *door) startDaemon(ctx context.Context, a Account, env []string) error {
	socket := filepath.Join(d.dir, "daemon")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}

	l.SetUnlinkOnClose(false)

	// The server's own copy is closed: the user's nix must not wait for a daemon that has ended.
	defer l.Close()

	if err := errors.Join(os.Chown(socket, int(a.UID), int(a.GID)), os.Chmod(socket, 0o600)); err != nil {
		return err
	}

	fd, err := l.File()
	if err != nil {
		return err
	}
	defer fd.Close()

	store := os.Getenv("NIX_REMOTE")
	if store == "" || store == "auto" {
		store = "local"
	}

	// The daemon takes the socket only if LISTEN_PID is its own process ID.
	const script = `LISTEN_PID=$$ exec nix "$@"`

	// Restrictions on who may use the machine's usual nix daemon are lifted: the socket is for this user alone.
	args := append([]string{"-c", script, "nix"}, Features...)
	d.daemon = exec.CommandContext(ctx, "sh", append(args, "daemon", "--store", store, "--option", "allowed-users", "*")...)
	d.daemon.Env = append(env, "LISTEN_FDS=1")
	d.daemon.ExtraFiles = []*os.File{fd}
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.daemon.Stderr = &text.Lines{To: d.said.add}
	d.daemon.WaitDelay = doorDelay
	if err := d.daemon.Start(); err != nil {
		d.daemon = nil
		return err
	}

	d.remote = "unix://" + socket
	return nil
}

// close ends the daemon and removes the folder.
func (d *door) close() error {
	if d.daemon != nil {
		d.endDaemon()
	}
	return os.RemoveAll(d.dir)
}

// endDaemon returns when the daemon has ended. nix 2.26 misses a signal that comes just before it waits for the next
// connection. So the signal is repeated, and in the end the daemon is killed.
func (d *door) endDaemon() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.daemon.Wait() // it was ended by a signal
	}()
	for killed := time.Now().Add(doorDelay); time.Now().Before(killed); {
		_ = d.daemon.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-ended:
			return
		case <-time.After(doorDelay / 50):
		}
	}

	_ = d.daemon.Process.Kill()
	<-ended
}

// complaint returns the daemon's messages, except those about connections.
func (d *door) complaint() string {
	var words []string
	for _, line := range d.said.all() {
		if !strings.HasPrefix(line, "accepted connection") {
			words = append(words, strings.TrimSpace(line))
		}
	}
	return strings.Join(words, "; ")
}
