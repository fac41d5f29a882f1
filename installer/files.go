package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

// files copies the extra files over /mnt and gives the host its secrets and its
// SSH key. All come before nixos-install, since activation may need them to
// decrypt secrets.
func (i *install) files(ctx context.Context) error {
	what := "the host's SSH key"
	if dir := i.host.ExtraFiles; dir != "" {
		if err := sendTree(ctx, i.session, newRoot, dir); err != nil {
			return fmt.Errorf("copy the extra files in %s: %w", dir, err)
		}
		what += " and the extra files"
	}

	if err := i.deliverSecrets(ctx); err != nil {
		return err
	}
	if n := len(i.host.Secrets); n > 0 {
		what += fmt.Sprintf("; secret files: %d", n)
	}
	for _, c := range i.host.Chown {
		if err := i.chown(ctx, c); err != nil {
			return err
		}
	}

	// Last: whatever the extra files hold, the host's identity is this.
	private, err := i.Hosts.Secret(i.host.Name, hosts.SecretHostKey)
	if err != nil {
		return err
	}

	for _, key := range i.build.hostKeys {
		if err := deliver(ctx, i.session, newRoot, key, "0600", bytes.NewReader(private)); err != nil {
			return err
		}
		if err := deliver(ctx, i.session, newRoot, key+".pub", "0644", strings.NewReader(i.host.HostKey+"\n")); err != nil {
			return err
		}
	}

	i.finished(hosts.PhaseFiles, "delivered %s", what)
	return nil
}

// sendTree copies a folder's contents over root, with modes and owners. Folders
// that are there keep theirs.
func sendTree(ctx context.Context, s *session, root, dir string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := writeTree(w, dir)
		w.CloseWithError(err)
		done <- err
	}()
	_, err := s.run(ctx, r, sharedLock("tar", "-C", root, "-xpf", "-", "--same-owner", "--numeric-owner", "--no-overwrite-dir")...)
	r.Close()
	if packed := <-done; packed != nil && !errors.Is(packed, io.ErrClosedPipe) {
		return packed
	}
	return err
}

// writeTree packs everything below dir. The folder itself is left out, so
// that its mode does not become that of the new root. What belongs to the
// folder's owner, as an operator's files do, becomes root's; other owners are
// kept, by their numbers.
func writeTree(w io.Writer, dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // a walk does not begin with a link
	if err != nil {
		return err
	}

	var top unix.Stat_t
	if err := unix.Stat(dir, &top); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}

	out := tar.NewWriter(w)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}

		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}

		head, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}

		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}

		head.Name = filepath.ToSlash(rel)
		head.Uname = ""
		head.Gname = ""
		if head.Uid == int(top.Uid) {
			head.Uid = 0
		}
		if head.Gid == int(top.Gid) {
			head.Gid = 0
		}
		if d.IsDir() {
			head.Name += "/"
		}
		if err := out.WriteHeader(head); err != nil || !info.Mode().IsRegular() {
			return err
		}

		return copyFile(out, path)
	})
	return errors.Join(err, out.Close())
}

func copyFile(w io.Writer, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(w, in)
	return err
}
