package installer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"provision/hosts"
	"provision/internal/nix"
)

// buildLimit bounds a build on the machine.
const buildLimit = 12 * time.Hour

// buildFile holds the process id of a build on the machine.
const buildFile = "/run/provision.build"

// builtThere decides where the host's system is built: it is the derivation if that is on the machine, and zero if it
// is here.
func (f *reconciler) builtThere(ctx context.Context, h hosts.Host, c nix.Config) (drv nix.Derivation, err error) {
	switch h.BuildOn {
	case hosts.BuildServer:
		return drv, nil
	case hosts.BuildTarget:
		return c.Builds["toplevel"], nil
	}

	can, err := f.Nix.CanBuild(ctx, c.System)
	if err != nil || can {
		return drv, err
	}

	toplevel := c.Builds["toplevel"]
	can, err = f.Nix.CanBuild(ctx, toplevel.System)
	if err != nil || can { // cross-built
		return drv, err
	}

	if h.Disko == hosts.Script {
		return drv, fmt.Errorf("--disko script needs the flake's script built before there is a disk to build on, and "+
			"nix here does not build for %s: give it a remote builder, or use another --disko", toplevel.System)
	}
	return toplevel, nil
}

// buildThere copies what the system is built from into /mnt, with what we have of it, and has the machine build it
// there.
func (i *install) buildThere(ctx context.Context, drv nix.Derivation) error {
	start := i.Now()
	sent, err := i.sendInputs(ctx, drv)
	if err != nil {
		return err
	}
	i.note("%s of what %s is built from was copied, in %s; the machine builds it",
		megabytes(sent.Bytes), drv.Out, elapsed(i.Now(), start))

	start = i.Now()
	err = realise(ctx, i.session, "/mnt", drv, func(line string) {
		i.Log.Debug("nix build on the machine", "host", i.host.Name, "line", line)
	})
	if err != nil {
		return err
	}
	i.copied(sent, "the machine built %s in %s", drv.Out, elapsed(i.Now(), start))
	return nil
}

// sendInputs copies a derivation with all that it refers to, and the outputs that we have of its inputs.
func (i *install) sendInputs(ctx context.Context, drv nix.Derivation) (sent hosts.Work, err error) {
	inputs, err := i.Nix.Inputs(ctx, drv.Path)
	if err != nil {
		return sent, err
	}

	loads := [][]string{{"--derivation", drv.Path}}
	loads = slices.AppendSeq(loads, slices.Chunk(inputs, 1000)) // a command line has its limits
	for _, what := range loads {
		c := closure{path: what[len(what)-1]}
		if err := i.measure(ctx, &c, what...); err != nil {
			return sent, err
		}

		w, err := i.copies(ctx, transfer{
			closure: c,
			phase:   hosts.PhaseCopy,
			root:    "/mnt",
			what:    what,
		})
		sent.Bytes += w.Bytes
		sent.Over = w.Over
		if err != nil {
			return sent, err
		}
	}

	return sent, nil
}

// realise builds a derivation on the machine, in the store below root. Its temporary files are there, too, and not in
// the installer's memory, where new versions of nix would have them.
func realise(ctx context.Context, s *session, root string, drv nix.Derivation, line func(string)) error {
	const script = `set -e
work=$0/nix/var/nix/builds
rm -rf -- "$work" "$2"
mkdir -p -m 755 -- "$work"
TMPDIR=$work timeout "$3" nix-store --store "$0" --realise "$1" &
echo $! >"$2"
wait $!
rm -rf -- "$work" "$2"`
	limit := strconv.Itoa(int(buildLimit.Seconds())) // sshd lets it go on when we are away
	out, err := s.runWithin(ctx, buildLimit, nil, line, sharedLock("sh", "-c", script, root, drv.Path, buildFile, limit)...)
	cause := context.Cause(ctx)
	if errors.Is(cause, errUnwanted) || errors.Is(cause, errConcurrent) { // closing the disks waits for its lock
		_, killErr := s.run(context.WithoutCancel(ctx), nil, "sh", "-c", `kill "$(cat "$0")"`, buildFile)
		err = errors.Join(err, killErr)
	}
	if err != nil {
		return fmt.Errorf("build on the machine: %w", err)
	}

	if made := strings.TrimSpace(string(out)); made != drv.Out {
		return fmt.Errorf("build on the machine: it made %s, and %s was expected", made, drv.Out)
	}
	return nil
}

// prebuilt is the system that was built beforehand, kept from the garbage collector.
func (f *reconciler) prebuilt(ctx context.Context, h hosts.Host) (c closure, err error) {
	c.path = h.StorePath
	if err := f.Nix.Keep(ctx, h.Name, c.path); err != nil {
		return c, err
	}
	return c, f.measure(ctx, &c, c.path)
}
