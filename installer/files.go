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

	"provision/hosts"
)

// files copies the extra files over /mnt and gives the host its SSH key. Both
// come before nixos-install, since activation may need them to decrypt
// secrets.
func (f *follower) files(ctx context.Context, h hosts.Host, s *session) error {
	f.begin(hosts.PhaseFiles)
	if dir := h.Options.ExtraFiles; dir != "" {
		if err := sendTree(ctx, s, dir); err != nil {
			return fmt.Errorf("copy the extra files in %s: %w", dir, err)
		}
	}
	private, err := f.Hosts.Secret(h.Name, hosts.SecretHostKey)
	if err != nil {
		return err
	}
	const key = "/mnt/etc/ssh/ssh_host_ed25519_key"
	if _, err := s.run(ctx, nil, "mkdir", "-p", "-m", "755", "/mnt/etc", "/mnt/etc/ssh"); err != nil {
		return err
	}
	if err := s.write(ctx, key, "0600", bytes.NewReader(private)); err != nil {
		return err
	}
	if err := s.write(ctx, key+".pub", "0644", strings.NewReader(h.HostKey+"\n")); err != nil {
		return err
	}
	what := "the host's SSH key"
	if h.Options.ExtraFiles != "" {
		what += " and the extra files"
	}
	f.finished(hosts.PhaseFiles, "delivered %s", what)
	return nil
}

// sendTree copies a folder's contents over /mnt, modes kept, owned by root.
func sendTree(ctx context.Context, s *session, dir string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := writeTree(w, dir)
		w.CloseWithError(err)
		done <- err
	}()
	_, err := s.run(ctx, r, "tar", "-C", "/mnt", "-xpf", "-", "--no-same-owner")
	r.Close()
	if packed := <-done; packed != nil && !errors.Is(packed, io.ErrClosedPipe) {
		return packed
	}
	return err
}

// writeTree packs everything below dir. The folder itself is left out, so
// that its mode does not become that of the new root.
func writeTree(w io.Writer, dir string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
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
		head.Name, head.Uid, head.Gid, head.Uname, head.Gname = filepath.ToSlash(rel), 0, 0, "", ""
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
