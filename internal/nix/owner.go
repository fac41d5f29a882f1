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
	Groups   []uint32 // the others that it is in
	Name     string   // or its number, if it has none
	home     string
}

// String is its name, or its number if it has none.
func (a Account) String() string { return a.Name }

// chown is the user as chown(1) takes it, with its group.
func (a Account) chown() string {
	if a.Name == strconv.Itoa(int(a.UID)) {
		return fmt.Sprintf("%d:%d", a.UID, a.GID)
	}
	return a.Name + ":"
}

// Another reports whether we, as root, are to run what belongs to this user as that user.
func (a Account) Another() bool { return os.Geteuid() == 0 && a.UID != 0 }

// account finds a user. One that the machine does not know by name has the group given, and no home.
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

// inherited are the variables of ours that a command gets that runs as another user: those that say where things are
// on this machine, and none that may hold a secret.
var inherited = []string{"PATH", "LANG", "LC_ALL", "LOCALE_ARCHIVE", "NIX_PATH", "NIX_CONF_DIR", "NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}

// As has a command run as the user, with nothing of ours. home is its HOME if the user has none.
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
		cmd.Dir = "/" // ours may be closed to the user
	}
}

// door lets another user's nix use our store, which may be root's alone: a nix daemon of root's, at a socket that only
// that user can open. To the daemon the user is one that it does not trust, who can set nothing of root's.
type door struct {
	dir    string // the user's, with an empty home in it
	remote string // NIX_REMOTE for the user
	daemon *exec.Cmd
	said   lines // by the daemon
}

// doorDelay is how long the daemon may take to end, and how long what it started, one process a connection, may go on
// after that.
const doorDelay = 5 * time.Second

// openDoor starts the daemon with these variables. Where root itself uses a daemon, so does the user.
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
	// The folder last: what is in it is the user's to change from then on.
	if err := errors.Join(os.Chown(home, int(a.UID), int(a.GID)), os.Chown(d.dir, int(a.UID), int(a.GID))); err != nil {
		return nil, err
	}
	return d, nil
}

// startDaemon hands the daemon a socket that is open already, as systemd does (sd_listen_fds(3)): who connects waits
// until it is there.
func (d *door) startDaemon(ctx context.Context, a Account, env []string) error {
	socket := filepath.Join(d.dir, "daemon")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	// Ours is closed at once: the user's nix must not wait for a daemon that is gone.
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
	// Only with its own number is the socket taken for the daemon's.
	const script = `LISTEN_PID=$$ exec nix "$@"`
	// Whom the machine's settings let use nix's usual daemon is not asked: the socket is for this user alone.
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

// close ends the daemon and takes the folder away.
func (d *door) close() error {
	if d.daemon != nil {
		d.endDaemon()
	}
	return os.RemoveAll(d.dir)
}

// endDaemon returns when the daemon has ended. Nix 2.26 misses a signal that comes just before it waits for the next
// connection, so it is told again, and at last killed.
func (d *door) endDaemon() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.daemon.Wait() // by our signal
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

// complaint is what the daemon said, but for who connected.
func (d *door) complaint() string {
	var words []string
	for _, line := range d.said.all() {
		if !strings.HasPrefix(line, "accepted connection") {
			words = append(words, strings.TrimSpace(line))
		}
	}
	return strings.Join(words, "; ")
}
