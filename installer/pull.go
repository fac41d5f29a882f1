package installer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"provision/cache"
	"provision/hosts"
)

// pullFile holds the process id of nix on the machine while it fetches.
const pullFile = "/run/provision.pull"

// pull has the machine fetch a closure out of our binary cache, past SSH: over HTTP, for as long as this
// takes, and believing only what is signed with a key that it is told here. It returns how many bytes the machine did
// not have.
func (f *follower) pull(ctx context.Context, h hosts.Host, s *session, t transfer) (sent int64, err error) {
	local, ok := s.client.LocalAddr().(*net.TCPAddr)
	client, parseErr := netip.ParseAddr(s.addr)
	if !ok || parseErr != nil {
		return 0, errors.New("the connection has no address")
	}
	share, err := f.Cache.Open(client, t.infos)
	if err != nil {
		return 0, err
	}
	defer share.Close()
	from := "http://" + netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), uint16(f.CachePort)).String() + cache.Prefix + share.Token
	to := "local"
	if t.root != "" {
		to += "?root=" + t.root
	}
	argv := PullCommand(from, share.PublicKey, to, t.path)
	if h.Options.TargetSubstitutes {
		argv = append(argv, "--substitute-on-destination")
	}
	// What the machine runs outlives a session that ends; its id is kept, to end it.
	argv = beside(append([]string{"sh", "-c", `"$@" & echo $! >"$0"; wait $!`, pullFile}, argv...)...)
	sent, err = f.watchCopy(ctx, t, func(ctx context.Context, line func(string)) error {
		_, err := s.runWithin(ctx, buildLimit, nil, line, argv...)
		return err
	})
	if err != nil && !errors.Is(err, errLost) {
		_, killErr := s.run(context.WithoutCancel(ctx), nil, "sh", "-c", `test ! -e "$0" || kill "$(cat "$0")" 2>/dev/null || :`, pullFile)
		err = errors.Join(err, killErr)
	}
	if err != nil {
		err = pullError{fmt.Errorf("fetch %s from this server: %w", t.path, err), share}
	}
	return sent, err
}

// PullCommand is how a machine fetches the closure of path out of a binary cache into a store (as nix names it), trusting
// this public key.
func PullCommand(cache, key, store, path string) []string {
	return slices.Concat([]string{"nix"}, flags, []string{"copy", "--log-format", "internal-json", "-v", "--from", cache, "--to", store,
		"--option", "trusted-public-keys", key,
		// A server that was killed is not asked for long: who comes after it waits for this to end.
		"--option", "download-attempts", "3", "--option", "connect-timeout", "5", "--option", "stalled-download-timeout", "30", path})
}

// pullError keeps the share's token, which is in the command and in what nix says, out of what people read.
type pullError struct {
	error
	share *cache.Share
}

func (e pullError) Error() string { return withoutToken(e.error.Error(), e.share) }
func (e pullError) Unwrap() error { return e.error }

func withoutToken(text string, s *cache.Share) string {
	return strings.ReplaceAll(text, s.Token, "TOKEN")
}

// watchCopy runs a nix copy, tells how far it is, and ends it when nothing moves.
func (f *follower) watchCopy(ctx context.Context, t transfer, run func(ctx context.Context, line func(string)) error) (sent int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("nothing was copied for %s", stallLimit)) })
	defer stall.Stop()
	p := copyProgress{sizes: t.paths}
	var said tail
	err = run(ctx, func(line string) {
		if p.read(line, &said) {
			// Old versions of nix say nothing during a path: a slow link, 1 MB/s,
			// needs a second for each of its MB.
			stall.Reset(stallLimit + time.Duration(p.largest()>>20)*time.Second)
			if now := f.Now(); now.Sub(p.told) >= time.Second {
				p.told = now
				f.advance(t.phase, p.bytes(), t.size, "bytes")
			}
		}
	})
	switch {
	case err == nil, errors.Is(err, errLost):
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case len(said) > 0:
		err = errors.New("nix copy failed" + said.String())
	}
	return p.done, err
}

// copies is how the closure goes to the machine: as the host's options say. It returns what the machine did not have, and how that
// went in the end.
func (f *follower) copies(ctx context.Context, h hosts.Host, s *session, t transfer) (hosts.Work, error) {
	w := hosts.Work{Over: string(hosts.CopyHTTP)}
	want := cmp.Or(h.Options.CopyOver, hosts.CopyAuto)
	if f.Cache != nil && want != hosts.CopySSH && t.what == nil {
		sent, err := f.again(ctx, func() (int64, error) { return f.pull(ctx, h, s, t) })
		w.Bytes = sent
		if err == nil || ctx.Err() != nil || errors.Is(err, errLost) || want == hosts.CopyHTTP {
			return w, err
		}
		f.note("%v; it is copied over SSH now", err)
	}
	more, err := f.again(ctx, func() (int64, error) { return f.nixCopy(ctx, h, s.addr, t) })
	return hosts.Work{Bytes: w.Bytes + more, Over: string(hosts.CopySSH)}, err
}
