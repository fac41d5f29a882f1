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

// hostBuild is what comes of a host's flake.
//
// It is started when the host is enrolled and again for each boot, since the flake may have changed; nix makes the
// second one quick.
type hostBuild struct {
	key      string    // what it was started for
	boot     string    // token of the last boot that was fetched; empty: none was
	permit   time.Time // under which permit
	hardware string    // digest of the machine's hardware configuration, if that is in it

	// evaluated is closed when layout and digest are valid, and the host's toplevel evaluates: what is left may take
	// long, but is only to be built. It stays open where disko's script is to be built.
	evaluated chan struct{}
	done      chan struct{}
	cancel    context.CancelFunc

	turn atomic.Value // string: what it waits its turn for, empty if it does not

	// Valid once done is closed.
	err    error
	source string // what the flake was: nix.Builder.Source
	result
}

// result is what a build made or found.
type result struct {
	system closure        // the toplevel
	drv    nix.Derivation // if the machine is to build the toplevel; system has only its path then
	script closure        // disko's own script, if that is to make the disks

	config   nix.Config
	layout   *disko.Layout
	digest   string   // of the layout
	hostKeys []string // the files of the new system that hold its SSH key
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

// startBuild starts the build for this enrolment and boot, and for the machine's hardware configuration, unless it
// runs.
//
// A boot that nobody has fetched is not one: a forged packet is enough to have it offered.
func (f *reconciler) startBuild(ctx context.Context, h hosts.Host, hardware string) {
	f.mu.Lock()
	defer f.mu.Unlock()

	old := f.builds[h.Name]
	boot := h.Boot.Token
	if h.Boot.TakenBy == "" {
		boot = ""
		if old != nil {
			boot = old.boot
		}
	}

	key := fmt.Sprint(h.Permit.Issued.Format(time.RFC3339Nano), h.Permit.Retries, boot, hardware)
	if old != nil {
		same := old.permit.Equal(h.Permit.Issued) && old.hardware == hardware && !old.over()
		if same || old.key == key {
			return // a long build is not started over because the machine boots
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	b := &hostBuild{
		key:       key,
		boot:      boot,
		permit:    h.Permit.Issued,
		hardware:  hardware,
		evaluated: make(chan struct{}),
		done:      make(chan struct{}),
		cancel:    cancel,
	}
	f.builds[h.Name] = b
	f.building.Go(func() {
		defer close(b.done)
		defer cancel()
		if old != nil {
			old.cancel()
			<-old.done
		}
		f.runBuild(ctx, h, b, old)
	})
}

// endBuild ends the host's build and forgets it, and reports whether it was still under way.
func (f *reconciler) endBuild() (wasUnderWay bool) {
	f.mu.Lock()
	b := f.builds[f.name]
	delete(f.builds, f.name)
	f.mu.Unlock()
	if b == nil {
		return false
	}
	wasUnderWay = !b.over()
	b.cancel()
	<-b.done
	return wasUnderWay
}

// runBuild evaluates and builds, after an earlier build if there was one, and says what came of it.
func (f *reconciler) runBuild(ctx context.Context, h hosts.Host, b, old *hostBuild) {
	start := f.Now()
	f.apply(hosts.Event{Kind: hosts.EventBuilding, Message: "evaluates the flake"})
	b.source = f.queued(b).Source(ctx, h.Flake)
	event := hosts.Event{Kind: hosts.EventBuilt}
	if f.unchanged(ctx, b, old) {
		event.Message = "the flake has not changed since " + b.system.path + " was built"
	} else {
		b.err = f.make(ctx, h, b)
		if b.err != nil {
			f.reportEarly(ctx, b.err)
			return
		}
		event.Message = b.summary(elapsed(f.Now(), start))
	}

	e := expectedOf(b.config, b.layout)
	event.System = b.system.path
	event.Expected = &e
	f.apply(event)
}

// unchanged takes over what an earlier build for the same permit came to, if it is of the same flake and is still
// there: a machine that boots is then not waited for by an evaluation, and many at once by none.
func (f *reconciler) unchanged(ctx context.Context, b, old *hostBuild) bool {
	if old == nil || old.err != nil || !b.permit.Equal(old.permit) {
		return false
	}
	if b.source == "" || b.source != old.source || b.hardware != old.hardware {
		return false
	}

	needs := []string{old.system.path, old.script.path}
	if old.drv.Path != "" {
		needs = []string{old.drv.Path}
	}
	needs = slices.DeleteFunc(needs, func(path string) bool { return path == "" })
	missing, err := f.Nix.Missing(ctx, needs)
	if err != nil || len(missing) > 0 {
		return false
	}

	b.result = old.result
	return true
}

// summary says what came of it.
func (b *hostBuild) summary(took time.Duration) string {
	if b.drv.Path != "" {
		return fmt.Sprintf("evaluated in %s; the machine itself is to build %s, for %s", took, b.system.path, b.drv.System)
	}
	return fmt.Sprintf("built %s: %s, in %s", b.system.path, b.system, took)
}

func (b *hostBuild) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// reportEarly fails a host whose machine has not even asked yet; later, the install itself says that the build failed.
func (f *reconciler) reportEarly(ctx context.Context, err error) {
	h, getErr := f.Hosts.Get(f.name)
	if getErr == nil && h.State == hosts.StateReady && ctx.Err() == nil {
		f.fail(hosts.PhaseBuild, err)
	}
}

// make evaluates the host's configuration and has built what the install needs of it.
func (f *reconciler) make(ctx context.Context, h hosts.Host, b *hostBuild) error {
	builder := f.queued(b)
	var builds []string
	if h.StorePath == "" {
		builds = append(builds, "toplevel")
	}
	if h.Disko == hosts.Script {
		builds = append(builds, "diskoScript")
	}

	config, layout, err := Evaluate(ctx, builder, h.Flake, h.Name, h.Choices, builds...)
	if err != nil {
		return err
	}

	for _, warning := range config.Warnings {
		f.note("%s", warning)
	}
	if arch, err := images.ParseArch(config.System); err != nil || string(arch) != h.Arch {
		return fmt.Errorf("the flake builds %s for %s now, and it was enrolled for %s: enroll it again",
			h.Name, config.System, h.Arch)
	}

	b.layout = layout
	b.config = config
	b.hostKeys = config.HostKeyFiles(layout)
	sum := sha256.Sum256(config.Devices)
	b.digest = hex.EncodeToString(sum[:8])
	if h.Disko != hosts.Script {
		close(b.evaluated)
	}

	err = f.makeSystem(ctx, builder, h, b)
	if err != nil || h.Disko != hosts.Script {
		return err
	}

	b.script, err = f.closure(ctx, builder, h, "diskoScript", config.Builds)
	return err
}

// makeSystem builds the toplevel, or finds it built, or finds out what the machine is to build.
func (f *reconciler) makeSystem(ctx context.Context, builder nix.Builder, h hosts.Host, b *hostBuild) (err error) {
	if h.StorePath != "" {
		b.system, err = f.prebuilt(ctx, h)
		return err
	}
	b.drv, err = f.builtThere(ctx, h, b.config)
	if err != nil {
		return err
	}
	if b.drv.Path != "" {
		b.system.path = b.drv.Out
		return nil
	}
	b.system, err = f.closure(ctx, builder, h, "toplevel", b.config.Builds)
	return err
}

// closure builds an attribute of the host's config.system.build.
func (f *reconciler) closure(
	ctx context.Context, builder nix.Builder, h hosts.Host, name string, evaluated map[string]nix.Derivation,
) (c closure, err error) {
	what := nix.Attribute{
		Flake:      h.Flake,
		Host:       h.Name,
		Name:       name,
		Derivation: evaluated[name],
	}
	c.path, err = builder.Build(ctx, what, func(line string) {
		f.Log.Debug("nix build", "host", h.Name, "line", line)
	})
	if err != nil {
		return c, err
	}
	return c, f.measure(ctx, &c, c.path)
}

// measure finds out what belongs to the closure of a path, or of several.
func (f *reconciler) measure(ctx context.Context, c *closure, of ...string) (err error) {
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
func (f *reconciler) evaluated(ctx context.Context) (*hostBuild, error) {
	f.mu.Lock()
	b := f.builds[f.name]
	f.mu.Unlock()

	if words, _ := b.turn.Load().(string); words != "" {
		f.noteTurn(words)
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
func (f *reconciler) built(ctx context.Context, b *hostBuild) error {
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

// queued is nix for a build, which waits its turn and says so. A machine that is there is waited for by somebody, and
// goes first.
func (f *reconciler) queued(b *hostBuild) nix.Builder {
	builder := f.Nix
	builder.Evaluates = f.waiter(b, "evaluated")
	builder.Building = f.waiter(b, "built")
	return builder
}

// waiter is a build that waits its turn to be evaluated, or built.
func (f *reconciler) waiter(b *hostBuild, what string) nix.Waiter {
	return nix.Waiter{
		Hurry: func() bool {
			h, err := f.Hosts.Get(f.name)
			return err == nil && h.State != hosts.StateReady
		},
		Waits: func(ahead int) {
			words := "waits for its turn to be " + what
			if ahead > 0 {
				words += fmt.Sprintf(", behind %d others", ahead)
			}
			f.apply(hosts.Event{Kind: hosts.EventQueued, Message: words})
			b.turn.Store(words)
			f.noteTurn(words)
		},
		Goes: func() {
			b.turn.Store("")
			f.apply(hosts.Event{Kind: hosts.EventBuilding, Message: "is being " + what})
			f.noteTurn("")
		},
	}
}

// noteTurn shows that the build waits its turn, or does not any more, where nothing else goes on.
func (f *reconciler) noteTurn(words string) {
	h, err := f.Hosts.Get(f.name)
	if err != nil {
		return
	}
	waiting := h.State == hosts.StateReady && h.Phase == hosts.PhaseNetboot
	building := h.State != hosts.StateFailed && h.Phase == hosts.PhaseBuild
	if waiting || building {
		f.apply(hosts.Event{Kind: hosts.EventAdvanced, Phase: h.Phase, Progress: &hosts.Progress{Now: words}})
	}
}

// megabytes is a number of bytes for people.
func megabytes(n int64) string {
	s := fmt.Sprintf("%.1f MB", float64(n)/1e6)
	return strings.Replace(s, ".0 MB", " MB", 1)
}
