package installer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"provision/hosts"
	"provision/internal/cache"
	"provision/internal/nix"
)

// pullFile holds the process id of nix on the machine while it fetches.
const pullFile = "/run/provision.pull"

// offer is a closure that a machine may fetch out of our binary cache.
type offer struct {
	*cache.Share
	url string
}

// offer opens it, for the machine at the other end of the session.
func (i *install) offer(c closure) (*offer, error) {
	local, ok := i.session.client.LocalAddr().(*net.TCPAddr)
	client, err := netip.ParseAddr(i.session.addr)
	if !ok || err != nil {
		return nil, errors.New("the connection has no address")
	}
	share, err := i.Cache.Open(client, c.infos)
	if err != nil {
		return nil, err
	}
	return &offer{share, "http://" + netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), uint16(i.CachePort)).String() +
		cache.Prefix + share.Token}, nil
}

// Compressing pays on a slow network, as long as the cores of both sides keep up with it. All rates are in bytes of
// the uncompressed system.
const (
	// slowLink is the rate below which a network counts as slow. Gigabit Ethernet carries 117e6 a second.
	slowLink = 30e6
	// packedSize is how large a system is when zstd's fastest level has compressed it, as a part of its size.
	packedSize = 0.4
	// packRate is how many bytes a second one core of the server compresses.
	packRate = 100e6
	// storeRate is how fast one core of the machine unpacks, hashes and writes, as a part of the rate at which it only
	// hashes.
	storeRate = 1. / 3
)

// faster reports whether NARs arrive faster compressed, over a network that carries link bytes a second, if the
// server's cores are shared by so many machines, and each of this machine's hashes so many bytes a second. A slow
// machine makes its network look slow.
func faster(link float64, serverCores, machines, machineCores int, hashes float64) bool {
	packed := min(
		link/packedSize,
		packRate*float64(serverCores)/float64(max(1, machines)),
		storeRate*hashes*float64(machineCores),
	)
	return link < slowLink && packed > 1.3*link
}

// compress has the network to the machine measured, and what is offered compressed if that helps. If the machine cannot
// tell, it is not.
func (i *install) compress(ctx context.Context, o *offer) {
	const script = `read -r path && exec 3<>"/dev/tcp/$0/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$path" >&3 || exit
read -r _ <&3 || exit
begun=${EPOCHREALTIME//[.,]/}
bytes=$(timeout 3 cat <&3 | wc -c)
fetched=${EPOCHREALTIME//[.,]/}
head -c 4000000 /dev/zero | sha256sum >/dev/null
echo "$bytes" $((fetched - begun)) "$(nproc)" $((${EPOCHREALTIME//[.,]/} - fetched))`
	url, err := url.Parse(o.url)
	if err != nil {
		return
	}

	out, err := i.session.run(ctx, strings.NewReader(url.Path+"/"+cache.RateName+"\n"), "bash", "-c", script, url.Hostname(), url.Port())
	var bytes, micros, hashing float64
	var cores int
	if _, scanErr := fmt.Sscan(string(out), &bytes, &micros, &cores, &hashing); err != nil || scanErr != nil ||
		micros <= 0 || hashing <= 0 {
		return
	}

	link, hashes := bytes/micros*1e6, 4e6/hashing*1e6
	compress := faster(link, runtime.NumCPU(), i.Cache.Shares(), cores, hashes)
	i.Log.Debug("measured the network", "host", i.name, "bytes_a_second", int64(link), "cores", cores, "hashes_a_second", int64(hashes), "compress", compress)
	if compress {
		o.Compress()
		i.note("the network carries %.1f MB/s to the machine: its system is compressed on the way", link/1e6)
	}
}

// shareEarly offers the host's system, if that is built, while the disks are made, and has the machine ask already for
// all that nix wants to know before it fetches the first path. done ends this.
func (i *install) shareEarly(ctx context.Context) (_ *offer, done func()) {
	wanted := i.Cache != nil && i.host.CopyOver != hosts.CopySSH
	if !wanted || !i.build.over() || i.build.err != nil || i.build.drv.Path != "" {
		return nil, func() {}
	}

	o, err := i.offer(i.build.system)
	if err != nil {
		return nil, func() {} // copies says it
	}

	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		i.compress(ctx, o)
		// What it says is not wanted: it is all said again by who fetches.
		i.session.run(ctx, nil, slices.Concat([]string{"sh", "-c", `exec "$@" >/dev/null 2>&1`, "sh", "nix"}, nix.Features,
			[]string{"path-info", "--recursive", "--store", o.url}, cache.Patience, []string{i.build.system.path})...)
	})
	return o, func() {
		cancel()
		asking.Wait()
		o.Close()
	}
}

// pull has the machine fetch a closure out of our binary cache, past SSH: over HTTP, for as long as this
// takes, and believing only what is signed with a key that it is told here. It returns how many bytes the machine did
// not have.
func (i *install) pull(ctx context.Context, t transfer) (sent int64, err error) {
	o := t.offer
	if o == nil {
		if o, err = i.offer(t.closure); err != nil {
			return 0, err
		}
		defer o.Close()
		i.compress(ctx, o)
	}

	before := o.Sent()
	to := "local"
	if t.root != "" {
		to += "?root=" + t.root
	}
	argv := cache.Fetch(o.url, o.PublicKey, to, i.host.TargetSubstitutes, t.path)

	// What the machine runs outlives a session that ends; its id is kept, to end it.
	argv = sharedLock(append([]string{"sh", "-c", `"$@" & echo $! >"$0"; wait $!`, pullFile}, argv...)...)
	sent, err = i.watchCopy(ctx, t, &pullProgress{
		share:  o.Share,
		before: before,
		from:   o.url,
		sizes:  t.paths,
	}, func(ctx context.Context, line func(string)) error {
		_, err := i.session.runWithin(ctx, buildLimit, nil, line, argv...)
		return err
	})
	if err != nil && !errors.Is(err, errLost) {
		_, killErr := i.session.run(context.WithoutCancel(ctx), nil, "sh", "-c", `test ! -e "$0" || kill "$(cat "$0")" 2>/dev/null || :`, pullFile)
		err = errors.Join(err, killErr)
	}
	if err != nil {
		if store := o.Err(); store != nil {
			err = fmt.Errorf("%w; of this server: %w", err, store)
		}
		err = pullError{fmt.Errorf("fetch %s from this server: %w", t.path, err), o.Share}
	}

	return sent, err
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

// pullProgress is what went out of our cache, and what nix says that it copies from elsewhere.
type pullProgress struct {
	share     *cache.Share
	before    int64  // bytes that had gone out when this began
	from      string // our cache's URL
	sizes     map[string]int64
	elsewhere int64 // bytes
	last      int64 // bytes of the path that is copied from elsewhere
}

func (p *pullProgress) read(line string, said *lastLines) {
	rest, copying := strings.CutPrefix(line, "copying ")
	if !copying {
		said.add(line)
		return
	}
	path, from, _ := strings.Cut(strings.TrimPrefix(rest, "path '"), "' from '")
	if size, ours := p.sizes[path]; ours && !strings.HasPrefix(from, p.from) {
		p.last = size
		p.elsewhere += size
	}
}

func (p *pullProgress) bytes() int64   { return p.share.Sent() - p.before + p.elsewhere }
func (p *pullProgress) largest() int64 { return p.last }

// closureCopy is how far a copy is.
type closureCopy interface {
	read(line string, said *lastLines) // of nix's stderr; what is for people goes to said
	bytes() int64
	largest() int64 // bytes of the largest path under way of which nothing is known until it is there
}

// watchCopy runs nix, tells how far it is, and ends it when nothing moves. It returns how many bytes the
// machine did not have.
func (f *reconciler) watchCopy(ctx context.Context, t transfer, p closureCopy,
	run func(ctx context.Context, line func(string)) error) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	lines, done := make(chan string), make(chan error, 1)
	go func() {
		done <- run(ctx, func(line string) {
			select {
			case lines <- line:
			case <-ctx.Done():
			}
		})
	}()
	var said lastLines
	told, moved := int64(-1), time.Now()
	for tick := time.NewTicker(time.Second); ; {
		select {
		case line := <-lines:
			p.read(line, &said)
		case <-tick.C:
			// A slow link, 1 MB/s, needs a second for each MB.
			limit := stallLimit + time.Duration(p.largest()>>20)*time.Second
			if n := p.bytes(); n != told {
				told, moved = n, time.Now()
				f.advance(t.phase, n, t.size, "bytes")
			} else if time.Since(moved) > limit {
				cancel(fmt.Errorf("nothing was copied for %s", limit))
			}
		case err := <-done:
			tick.Stop()
			switch {
			case err == nil, errors.Is(err, errLost):
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case len(said) > 0:
				err = errors.New("nix failed" + said.String())
			}
			return p.bytes(), err
		}
	}
}

// copies is how the closure goes to the machine: as the host's options say. It returns what the machine did not have,
// and how that went in the end.
func (i *install) copies(ctx context.Context, t transfer) (hosts.Work, error) {
	w := hosts.Work{Over: string(hosts.CopyHTTP)}
	want := cmp.Or(i.host.CopyOver, hosts.CopyAuto)
	if i.Cache != nil && want != hosts.CopySSH && t.what == nil {
		sent, err := i.again(ctx, func() (int64, error) { return i.pull(ctx, t) })
		w.Bytes = sent
		if err == nil || ctx.Err() != nil || errors.Is(err, errLost) || want == hosts.CopyHTTP {
			return w, err
		}
		i.note("%v; it is copied over SSH now", err)
	}
	more, err := i.again(ctx, func() (int64, error) { return i.nixCopy(ctx, i.host, i.session.addr, t) })
	return hosts.Work{Bytes: w.Bytes + more, Over: string(hosts.CopySSH)}, err
}
