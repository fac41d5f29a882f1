package installer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"provision/hosts"
)

// newRoot is where the new system's root is mounted on the installer.
const newRoot = "/mnt"

// inside leaves $target as where the path $2 of the new system below $1 is,
// through links of its own; a link that leads out of it ends the script.
const inside = `set -e
umask 022
folder=$(realpath -m -- "$1$(dirname -- "$2")")
case $folder/ in
"$1"/*) ;;
*) echo "$2: a symbolic link on the way leads out of the new system, to $folder"; exit 1 ;;
esac
target=$folder/$(basename -- "$2")
`

// deliver writes a file of the new system, owned by root, from data that never
// appears in a command line. Folders that are not there are made, for all to
// read.
func deliver(ctx context.Context, s *session, root, path, mode string, data io.Reader) error {
	// Begun under a name that the next try takes again: nothing is left of a broken one.
	const script = inside + `mkdir -p -- "$folder"
umask 077
rm -f -- "$target.part"
cat >"$target.part"
chown 0:0 -- "$target.part"
chmod "$3" -- "$target.part"
mv -fT -- "$target.part" "$target"`
	if _, err := s.run(ctx, data, sharedLock("sh", "-c", script, "sh", root, path, mode)...); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// deliverSecrets writes the host's secret files, where the running system will find them.
func (i *install) deliverSecrets(ctx context.Context) error {
	for _, file := range i.host.Secrets {
		content, err := i.Hosts.Secret(i.host.Name, hosts.SecretContent(file.Path))
		if err == nil {
			where, _ := i.build.config.Locate(file.Path, i.build.layout)
			err = deliver(ctx, i.session, newRoot, where, file.Mode, bytes.NewReader(content))
		}
		if err != nil {
			return fmt.Errorf("deliver a secret: %w", err)
		}
	}
	return nil
}

// chown gives what is below a path of the running system an owner, the secrets that are kept elsewhere too.
func (i *install) chown(ctx context.Context, c hosts.Chown) error {
	name := c.Path
	c.Path, _ = i.build.config.Locate(name, i.build.layout)
	top, moved := c.Path, false
	for _, secret := range i.host.Secrets {
		where, _ := i.build.config.Locate(secret.Path, i.build.layout)
		if !below(secret.Path, name) || below(where, top) {
			continue
		}
		moved = true
		c.Path = where
		if err := chown(ctx, i.session, newRoot, c); err != nil {
			return err
		}
	}

	c.Path = top
	if moved { // it may have been all that there is
		out, err := i.session.run(ctx, nil, "sh", "-c", `[ ! -e "$0" ] || echo there`, newRoot+top)
		if err != nil || len(out) == 0 {
			return err
		}
	}

	return chown(ctx, i.session, newRoot, c)
}

// chown gives what is at a path of the new system, and all below it, an owner.
// Links are not followed: they get the owner themselves.
func chown(ctx context.Context, s *session, root string, c hosts.Chown) error {
	const script = inside + `test -e "$target" || test -L "$target" || {
	echo "$2: is not on the new system; neither its layout nor --extra-files nor --secret makes it"; exit 1; }
chown -R -P --no-dereference -- "$3" "$target"`
	owner := fmt.Sprintf("%d:%d", c.UID, c.GID)
	if _, err := s.run(ctx, nil, sharedLock("sh", "-c", script, "sh", root, c.Path, owner)...); err != nil {
		return fmt.Errorf("--chown %s=%s: %w", c.Path, owner, err)
	}
	return nil
}

// below reports whether a path is the folder's, or the folder.
func below(name, folder string) bool {
	folder = path.Clean(folder)
	return name == folder || strings.HasPrefix(name, strings.TrimSuffix(folder, "/")+"/")
}
