package installer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/cache"
	"provision/internal/nix"
)

// build is what comes of a host's flake. It is started when the host is
// enrolled and again for each boot, since the flake may have changed; nix
// makes the second one quick.
type build struct {
	key      string    // what it was started for
	boot     string    // token of the last boot that was fetched; "": none was
	permit   time.Time // under which permit
	hardware string    // digest of the machine's hardware configuration, if that is in it
	// evaluated is closed when layout and digest are valid, and the host's toplevel evaluates: what is
	// left may take long, but is only to be built. It stays open where disko's script is to be built.
	evaluated chan struct{}
	done      chan struct{}
	cancel    context.CancelFunc
	turn      atomic.Value // string: what it waits its turn for, empty if it does not

	// Valid once done is closed.
	err    error
	source string         // what the flake was, see nix.Builder.Source
	system closure        // the toplevel
	drv    nix.Derivation // if the machine is to build the toplevel; system has only its path then
	script closure        // disko's own script, if that is to make the disks
	layout *disko.Layout
	digest string // of the layout
	// hostKeys are the files of the new system that hold its SSH key.
	hostKeys []string
	config   nix.Config
}

// closure is a store path with all that it needs.
type closure struct {
	path  string
	paths map[string]int64 // with their sizes in bytes
	size  int64            // of them all, bytes
	infos []cache.Path     // more of them
}

func (c closure) String() string {
	return fmt.Sprintf("%d paths, %s", len(c.paths), megabytes(c.size))
}

// startBuild starts the build for this enrolment and boot, and for the machine's hardware
// configuration, unless it runs. A boot that nobody has fetched is not one: a forged packet is enough to have it offered.
func (f *follower) startBuild(ctx context.Context, h hosts.Host, hardware string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.builds[h.Name]
	boot := h.Boot.Token
	if h.Boot.Client == "" {
		boot = ""
		if old != nil {
			boot = old.boot
		}
	}
	key := fmt.Sprint(h.Permit.Issued.Format(time.RFC3339Nano), h.Permit.Retries, boot, hardware)
	if old != nil && (old.key == key || (old.permit.Equal(h.Permit.Issued) && old.hardware == hardware && !old.over())) {
		return // a long build is not started over because the machine boots
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &build{key: key, boot: boot, permit: h.Permit.Issued, hardware: hardware, evaluated: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	f.builds[h.Name] = b
	f.building.Go(func() {
		if old != nil {
			old.cancel()
			<-old.done
		}
		defer close(b.done)
		defer cancel()
		start := f.Now()
		f.apply(hosts.Event{Kind: hosts.Building, Message: "evaluates the flake"})
		if b.source = f.queued(b).Source(ctx, h.Flake); f.unchanged(ctx, b, old) {
			f.apply(hosts.Event{Kind: hosts.Built, System: b.system.path, Expected: b.expect(),
				Message: "the flake has not changed since " + b.system.path + " was built"})
			return
		}
		if b.err = f.make(ctx, h, b); b.err != nil {
			f.reportEarly(ctx, b.err)
			return
		}
		f.apply(hosts.Event{Kind: hosts.Built, System: b.system.path, Expected: b.expect(), Message: b.words(since(f.Now(), start))})
	})
}

// unchanged takes over what an earlier build for the same permit came to, if it is of the same flake and is still
// there: a machine that boots is then not waited for by an evaluation, and many at once by none.
func (f *follower) unchanged(ctx context.Context, b, old *build) bool {
	if old == nil || old.err != nil || b.source == "" || b.source != old.source || !b.permit.Equal(old.permit) || b.hardware != old.hardware {
		return false
	}
	needs := slices.DeleteFunc([]string{old.system.path, old.script.path}, func(p string) bool { return p == "" })
	if old.drv.Path != "" {
		needs = []string{old.drv.Path}
	}
	if gone, err := f.Nix.Missing(ctx, needs); err != nil || slices.ContainsFunc(needs, func(p string) bool { return gone[p] }) {
		return false
	}
	b.system, b.drv, b.script, b.layout, b.digest, b.hostKeys = old.system, old.drv, old.script, old.layout, old.digest, old.hostKeys
	b.config = old.config
	return true
}

// expect is what its system is to show on the network.
func (b *build) expect() *hosts.Expected {
	e := expected(b.config, b.layout)
	return &e
}

// words say what came of it.
func (b *build) words(took time.Duration) string {
	if b.drv.Path != "" {
		return fmt.Sprintf("evaluated in %s; the machine itself is to build %s, for %s", took, b.system.path, b.drv.System)
	}
	return fmt.Sprintf("built %s: %s, in %s", b.system.path, b.system, took)
}

func (b *build) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// reportEarly fails a host whose machine has not even asked yet; later, the
// install itself says that the build failed.
func (f *follower) reportEarly(ctx context.Context, err error) {
	if h, getErr := f.Hosts.Get(f.name); getErr == nil && h.State == hosts.Ready && ctx.Err() == nil {
		f.fail(hosts.PhaseBuild, err)
	}
}

func (f *follower) make(ctx context.Context, h hosts.Host, b *build) error {
	runs := f.queued(b)
	var builds []string
	if h.StorePath == "" {
		builds = append(builds, "toplevel")
	}
	if h.Disko == hosts.Script {
		builds = append(builds, "diskoScript")
	}
	config, layout, err := Evaluate(ctx, runs, h.Flake, h.Name, h.Choices, builds...)
	if err != nil {
		return err
	}
	for _, warning := range config.Warnings {
		f.note("%s", warning)
	}
	if arch, err := images.ParseArch(config.System); err != nil || string(arch) != h.Arch {
		return fmt.Errorf("the flake builds %s for %s now, and it was enrolled for %s: enroll it again", h.Name, config.System, h.Arch)
	}
	b.layout, b.config = layout, config
	b.hostKeys = config.HostKeyFiles(layout)
	sum := sha256.Sum256(config.Devices)
	b.digest = hex.EncodeToString(sum[:8])
	if h.Disko != hosts.Script {
		close(b.evaluated)
	}
	if err := f.makeSystem(ctx, runs, h, b, config); err != nil || h.Disko != hosts.Script {
		return err
	}
	b.script, err = f.closure(ctx, runs, h, "diskoScript", config)
	return err
}

// makeSystem builds the toplevel, or finds it built, or finds out what the machine is to build.
func (f *follower) makeSystem(ctx context.Context, runs nix.Builder, h hosts.Host, b *build, c nix.Config) (err error) {
	if h.StorePath != "" {
		b.system, err = f.prebuilt(ctx, h)
		return err
	}
	if b.drv, err = f.place(ctx, h, c); err != nil {
		return err
	}
	if b.drv.Path != "" {
		b.system.path = b.drv.Out
		return nil
	}
	b.system, err = f.closure(ctx, runs, h, "toplevel", c)
	return err
}

// closure builds an attribute of the host's config.system.build.
func (f *follower) closure(ctx context.Context, runs nix.Builder, h hosts.Host, attr string, from nix.Config) (c closure, err error) {
	what := nix.Attribute{
		Flake:      h.Flake,
		Host:       h.Name,
		Name:       attr,
		Derivation: from.Builds[attr],
	}
	c.path, err = runs.Build(ctx, what, func(line string) {
		f.Log.Debug("nix build", "host", h.Name, "line", line)
	})
	if err != nil {
		return c, err
	}
	return c, f.measure(ctx, &c, c.path)
}

// measure finds out what belongs to the closure of a path, or of several.
func (f *follower) measure(ctx context.Context, c *closure, of ...string) (err error) {
	c.infos, err = pathInfos(ctx, f.Nix.Settings, of...)
	if err != nil {
		return err
	}
	c.paths = make(map[string]int64, len(c.infos))
	for _, p := range c.infos {
		c.paths[p.Path] = p.NarSize
		c.size += p.NarSize
	}
	return nil
}

// pathInfos is what nix knows of the store paths that a path, or several, need, themselves included.
func pathInfos(ctx context.Context, s nix.Settings, of ...string) ([]cache.Path, error) {
	out, err := s.Run(ctx, nil, append([]string{"path-info", "--recursive", "--json"}, of...)...)
	var all []cache.Path
	if err == nil {
		all, err = cache.ParsePaths(out)
	}
	if err != nil {
		return nil, fmt.Errorf("closure of %s: %w", of[len(of)-1], err)
	}
	return all, nil
}

// evaluated waits until the host's layout is known and all of it evaluates.
func (f *follower) evaluated(ctx context.Context) (*build, error) {
	f.mu.Lock()
	b := f.builds[f.name]
	f.mu.Unlock()
	if words, _ := b.turn.Load().(string); words != "" {
		f.tellTurn(words)
	}
	select {
	case <-b.evaluated:
		return b, nil
	default:
	}
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-b.evaluated:
		return b, nil
	case <-b.done:
		return b, b.err
	}
}

// built waits for the host's build, and shows that, if it is not over.
func (f *follower) built(ctx context.Context, b *build) error {
	if !b.over() {
		words, _ := b.turn.Load().(string)
		f.waitsFor(hosts.PhaseBuild, words)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.done:
		return b.err
	}
}

// queued is nix for a build, which waits its turn and says so. A machine that is at the door is
// waited for by somebody, and goes first.
func (f *follower) queued(b *build) nix.Builder {
	runs := f.Nix
	wait := func(what string) nix.Waiter {
		return nix.Waiter{
			Hurry: func() bool {
				h, err := f.Hosts.Get(f.name)
				return err == nil && h.State != hosts.Ready
			},
			Waits: func(ahead int) {
				words := "waits for its turn to be " + what
				if ahead > 0 {
					words += fmt.Sprintf(", behind %d others", ahead)
				}
				f.apply(hosts.Event{Kind: hosts.Queued, Message: words})
				b.turn.Store(words)
				f.tellTurn(words)
			},
			Goes: func() {
				b.turn.Store("")
				f.apply(hosts.Event{Kind: hosts.Building, Message: "is being " + what})
				f.tellTurn("")
			},
		}
	}
	runs.Evaluates = wait("evaluated")
	runs.Building = wait("built")
	return runs
}

// tellTurn shows that the build waits its turn, or does not any more, where nothing else goes on.
func (f *follower) tellTurn(words string) {
	h, err := f.Hosts.Get(f.name)
	if err == nil && (h.State == hosts.Ready && h.Phase == hosts.PhaseNetboot || h.Phase == hosts.PhaseBuild && h.State != hosts.Failed) {
		f.apply(hosts.Event{Kind: hosts.Advanced, Phase: h.Phase, Progress: &hosts.Progress{Now: words}})
	}
}

func megabytes(n int64) string {
	s := fmt.Sprintf("%.1f MB", float64(n)/1e6)
	return strings.Replace(s, ".0 MB", " MB", 1)
}
