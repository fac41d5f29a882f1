package takeover

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/text"
)

const (
	sshCommandLimit = time.Minute
	// maxAnswer bounds the output of a command in bytes.
	maxAnswer = 1 << 20
)

// script runs a constant shell script on the machine, and returns its output. root is a command prefix that makes it
// run as root, or nil; input is passed on standard input.
func (v *Visit) script(ctx context.Context, root []string, command, input string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sshCommandLimit, fmt.Errorf("no end within %s", sshCommandLimit))
	defer cancel()

	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)

	client := v.machine.Client
	defer context.AfterFunc(ctx, func() { client.Close() })()

	session, err := client.NewSession()
	if err != nil {
		return "", fmt.Errorf("open an SSH session: %w", err)
	}
	defer session.Close()

	var out, errOut bytes.Buffer
	session.Stdin = strings.NewReader(input)
	session.Stdout = &text.Limit{To: &out, Most: maxAnswer, Full: end}
	session.Stderr = &text.Limit{To: &errOut, Most: maxAnswer, Full: end}

	// The login shell may be any shell; words in single quotes mean the same to all.
	command = "'" + strings.ReplaceAll(command, "'", `'\''`) + "'"
	err = session.Run(strings.Join(append(root, "sh", "-c", command), " "))
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, text.Short(strings.Join(strings.Fields(errOut.String()), " "), text.MaxLine))
	}
	return out.String(), nil
}

// allow adds the line on its standard input to root's authorized keys. With SELinux, sshd reads only files with the
// right label, so the label is restored.
const allow = `set -eu
umask 077
line=$(cat)
dir=~root/.ssh
file=$dir/authorized_keys
mkdir -p "$dir"
if [ -e "$file" ] && grep -qxF -e "$line" "$file"; then
	echo there
	exit
fi
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file"; fi
printf "%s\n" "$line" >> "$file"
if command -v restorecon > /dev/null; then restorecon -R "$dir" || true; fi
echo added`

// disallow removes the line again.
const disallow = `set -eu
umask 077
line=$(cat)
file=~root/.ssh/authorized_keys
rest=$(grep -vxF -e "$line" "$file" || true)
printf "%s" "${rest:+$rest
}" > "$file"`

// serverLine returns the line for the server's key in authorized_keys.
func serverLine(key string) string {
	return key + " provision: the provisioning server, by `provision install`\n"
}

// LetIn lets the server log in as root, and reports whether it could not do so before.
func (v *Visit) LetIn(ctx context.Context) (added bool, err error) {
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(v.ServerKey)); err != nil {
		return false, fmt.Errorf("read the server's SSH key from its answer: %w; is `provision serve` of another "+
			"version?", err)
	}
	out, err := v.script(ctx, v.found.root(), allow, serverLine(v.ServerKey))
	if err != nil {
		return false, fmt.Errorf("add the server's key to root's authorized keys on %s: %w", v.machine.Name(), err)
	}
	return strings.TrimSpace(out) == "added", nil
}

// LetOut undoes LetIn.
func (v *Visit) LetOut(ctx context.Context) error {
	if _, err := v.script(ctx, v.found.root(), disallow, serverLine(v.ServerKey)); err != nil {
		return fmt.Errorf("take the server's key out of root's authorized keys on %s again: %w; "+
			"the line ends in `provision install`", v.machine.Name(), err)
	}
	return nil
}
