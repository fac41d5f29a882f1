package nix

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Local is a flake in a folder of this machine.
type Local struct {
	Ref    string // the reference with symbolic links resolved, as nix 2.8 does not follow them
	Dir    string // the folder of flake.nix, as the reference names it
	Top    string // of the git repository from which nix reads it; empty: nix copies the folder as it is
	Pinned bool   // to a commit or a branch: nix does not read the working tree
	Owner  Account
}

// FindLocal reads a flake reference (section "Flake references" of "nix flake" in nix's manual). It returns nil if the
// flake is not in a folder of this machine. It is an error if the folder does not exist, has no flake.nix, or has parts
// that belong to different users.
func FindLocal(ref string) (*Local, error) {
	l, err := parseLocal(ref)
	if l == nil || err != nil {
		return nil, err
	}
	if err := l.find(); err != nil {
		return nil, err
	}
	if l.Owner, err = l.owner(); err != nil {
		return nil, err
	}
	return l, nil
}

// parseLocal splits a reference into its parts, without looking at the flake itself; nil if it is not a local one.
func parseLocal(ref string) (*Local, error) {
	rest, query, _ := strings.Cut(ref, "?")
	scheme, dir, is := strings.Cut(rest, ":")
	if !is {
		scheme, dir = "", rest
	}
	switch {
	case strings.HasPrefix(ref, "~"):
		return nil, fmt.Errorf("flake %s: a shell would have put a home folder in the place of ~: write the whole path", ref)
	case is && scheme != "path" && scheme != "git+file", !is && !filepath.IsAbs(dir) && !strings.HasPrefix(dir, "."):
		return nil, nil
	}

	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("read the flake reference %s: %w", ref, err)
	}

	if is {
		if dir, err = url.PathUnescape(strings.TrimPrefix(dir, "//")); err != nil {
			return nil, fmt.Errorf("read the flake reference %s: %w", ref, err)
		}
	}

	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}

	l := &Local{Ref: ref, Dir: filepath.Join(dir, values.Get("dir")), Pinned: values.Has("rev") || values.Has("ref")}
	if real, err := filepath.EvalSymlinks(dir); err == nil && real != dir {
		l.Ref = strings.Replace(ref, rest, real, 1)
		if is {
			l.Ref = strings.Replace(ref, rest, scheme+":"+(&url.URL{Path: real}).EscapedPath(), 1)
		}
	}

	if scheme != "path" {
		l.Top = dir
	}
	return l, nil
}

// find looks for flake.nix and for the git repository, as nix does.
func (l *Local) find() error {
	dir, err := filepath.EvalSymlinks(l.Dir)
	if err != nil {
		return fmt.Errorf("flake %s: %w", l.Ref, missing(l.Dir, err))
	}

	git := l.Top != ""
	if git && !strings.HasPrefix(l.Ref, "git+file:") {
		if dir, err = upwards(dir, "flake.nix"); err != nil {
			return fmt.Errorf("flake %s: %w; write one that has nixosConfigurations", l.Ref, err)
		}
	}

	l.Top = ""
	if !git {
		return nil
	}
	if l.Top, err = upwards(dir, ".git"); err == nil {
		return nil
	}

	if strings.HasPrefix(l.Ref, "git+file:") { // the repository may be a bare one
		l.Top, err = upwards(dir, "HEAD")
	}
	if err != nil { // nix will report it
		l.Top = ""
	}
	return nil
}

// missing turns the error for a missing folder into a sentence.
func missing(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no such folder: %s", dir)
	}
	return err
}

// upwards returns the first folder, from dir on upwards, that has a file with this name.
func upwards(dir, name string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, name)); err == nil {
			return at, nil
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return "", err
		}
		if at == "/" {
			return "", fmt.Errorf("neither %s nor a folder above it has %s", dir, name)
		}
	}
}

// owner returns the user to whom everything belongs that decides what git runs in the repository. For a flake that is
// not in git, it is the owner of the folder.
func (l *Local) owner() (Account, error) {
	places := []string{l.Dir}
	if l.Top != "" {
		places = append([]string{l.Top}, gitPlaces(l.Top)...)
	}
	var first *syscall.Stat_t
	for i, place := range places {
		// The folder itself may be named by a link; links inside are not followed.
		look := os.Lstat
		if i == 0 {
			look = os.Stat
		}
		info, err := look(place)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			continue
		}
		if err != nil {
			return Account{}, fmt.Errorf("look whose the flake is: %w", missing(place, err))
		}

		owner := info.Sys().(*syscall.Stat_t) // always this type on Linux
		if first == nil {
			first = owner
		}
		if owner.Uid != first.Uid {
			mine, other := account(first.Uid, first.Gid), account(owner.Uid, owner.Gid)
			return Account{}, fmt.Errorf("the repository %s belongs to %s, and %s in it to %s, and git runs what "+
				"its owner has put there: "+
				"give all of it to one of them, such as by `chown -R %s %s`", l.Top, mine, place, other, mine.chown(), l.Top)
		}
	}

	a := account(first.Uid, first.Gid)
	if me := uint32(os.Geteuid()); l.Top != "" && me != 0 && me != a.UID {
		return a, fmt.Errorf("the repository %s belongs to %s, as whom alone git may run in it, and this server "+
			"runs as %s: run it as root or as %s",
			l.Top, a, account(me, 0), a)
	}
	return a, nil
}

// gitPlaces returns the files and folders by which a repository can tell git what to run (gitrepository-layout in git's
// manual). For a worktree or submodule, these are in another folder.
func gitPlaces(top string) []string {
	dir := filepath.Join(top, ".git")
	places := []string{dir}
	info, err := os.Stat(dir)
	switch {
	case err != nil: // a bare repository
		dir = top
		places = nil
	case info.Mode().IsRegular():
		link, err := readShort(dir)
		if err != nil {
			return places
		}
		dir = relative(top, strings.TrimPrefix(link, "gitdir: "))
		places = append(places, dir)
	}

	common := dir
	if link, err := readShort(filepath.Join(dir, "commondir")); err == nil {
		common = relative(dir, link)
		places = append(places, common)
	}
	return slices.Concat(places, []string{filepath.Join(common, "config"), filepath.Join(dir, "config.worktree")})
}

// relative returns path as seen from the folder dir.
func relative(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// readShort reads a file of one line that may come from somebody else: it follows no link, does not block on a pipe,
// and reads at most 4096 bytes.
func readShort(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line := make([]byte, 4096)
	n, err := f.Read(line)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(line[:n])), nil
}
