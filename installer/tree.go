package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"provision/internal/nix"
)

// fileTree is the folder of a local flake, to write files into. It is locked for others of our kind:
// git knows no waiting for its index.
type fileTree struct {
	*nix.Local
	root *os.Root
	lock *os.File
}

// openTree opens the folder of a flake reference, and refuses a flake that is not one.
func openTree(flake string) (*fileTree, error) {
	local, err := nix.FindLocal(flake)
	switch {
	case err != nil:
		return nil, err
	case local == nil:
		return nil, fmt.Errorf("the hardware configuration is written into the flake's folder, and %s is not a "+
			"local folder: "+
			"start the server with --flake FOLDER, or put the file into the flake yourself and leave out "+
			"--generate-hardware-config", flake)
	case local.Pinned:
		return nil, fmt.Errorf("the hardware configuration is written into the flake's folder, and %s is pinned to "+
			"what was committed: "+
			"start the server with --flake FOLDER", flake)
	}

	t := &fileTree{Local: local}
	if t.root, err = os.OpenRoot(t.Dir); err != nil {
		return nil, fmt.Errorf("open the flake's folder: %w", err)
	}

	_, err = t.root.Stat("flake.nix")
	if err == nil {
		t.lock, err = t.root.Open(".")
	}
	if err == nil {
		err = syscall.Flock(int(t.lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("open the flake's folder %s: %w", t.Dir, err)
	}
	return t, nil
}

func (t *fileTree) close() {
	if t.lock != nil {
		t.lock.Close()
	}
	t.root.Close()
}

// has reports whether there is such a file. Another thing of that name is an error, and so is
// what a link leads to outside the folder.
func (t *fileTree) has(name string) (bool, error) {
	info, err := t.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err == nil && !info.Mode().IsRegular():
		err = errors.New("it is not a regular file: name another one")
	}
	if err != nil {
		err = fmt.Errorf("%s in the flake's folder: %w", name, err)
	}
	return err == nil, err
}

// write writes a file, whole or not at all, and has git know it.
func (t *fileTree) write(ctx context.Context, name string, data []byte) error {
	there, err := t.has(name)
	if err != nil {
		return err
	}

	if there {
		if old, err := t.root.ReadFile(name); err == nil && bytes.Equal(old, data) {
			return t.stage(ctx, name)
		}
	}

	if err := t.folders(path.Dir(name)); err != nil {
		return err
	}

	part := name + ".part"
	err = t.root.WriteFile(part, data, 0o644)
	if err == nil {
		err = t.own(part)
	}
	if err == nil {
		err = t.root.Rename(part, name)
	}
	if err != nil {
		return fmt.Errorf("write %s in %s: %w", name, t.Dir, errors.Join(err, ignoreMissing(t.root.Remove(part))))
	}
	return t.stage(ctx, name)
}

// folders makes a folder and those above it.
func (t *fileTree) folders(name string) error {
	if name == "." {
		return nil
	}
	if err := t.folders(path.Dir(name)); err != nil {
		return err
	}
	err := t.root.Mkdir(name, 0o755)
	if err == nil {
		err = t.own(name)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s in %s: %w", name, t.Dir, err)
	}
	return nil
}

// own gives what root made to the flake's owner.
func (t *fileTree) own(name string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return t.root.Lchown(name, int(t.Owner.UID), int(t.Owner.GID))
}

// stage has git know the file, without its content: nix does not see it else.
func (t *fileTree) stage(ctx context.Context, name string) error {
	return t.runGit(ctx, "add", "--intent-to-add", "--force", "--", name)
}

// remove takes a file away again, and the folders that are empty then.
func (t *fileTree) remove(ctx context.Context, name string) error {
	err := ignoreMissing(t.root.Remove(name))
	for dir := path.Dir(name); dir != "." && t.root.Remove(dir) == nil; {
		dir = path.Dir(dir)
	}
	return errors.Join(err, t.runGit(ctx, "rm", "--cached", "--force", "--quiet", "--ignore-unmatch", "--", name))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// runGit runs git in the flake's folder, if nix sees only what git knows.
func (t *fileTree) runGit(ctx context.Context, args ...string) error {
	if t.Top == "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hardwareLimit, fmt.Errorf("no end within %s", hardwareLimit))
	defer cancel()
	if _, err := t.Git(ctx, args...); err != nil {
		return fmt.Errorf("have git know a file of the flake in %s: %w", t.Dir, err)
	}
	return nil
}
