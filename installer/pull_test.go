package installer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/cache"
	"provision/internal/lab"
	"provision/internal/nix"
)

// TestPullError: what is told of a fetch that failed tells no token, and is still known for what it is.
func TestPullError(t *testing.T) {
	share := &cache.Share{Token: "SECRETSECRET"}
	err := error(pullError{fmt.Errorf("nix copy --from http://192.0.2.1/cache/%s: %w", share.Token, errLost), share})
	if text := fmt.Errorf("copy: %w", err).Error(); strings.Contains(text, share.Token) || !strings.Contains(text, "/cache/TOKEN: ") {
		t.Error(text)
	}
	if !errors.Is(err, errLost) {
		t.Error("it is not known any more that the session was lost")
	}
}

// TestPullEnds: the share is open while the machine fetches, and is no more, however that ended.
func TestPullEnds(t *testing.T) {
	c := new(cache.Cache)
	srv := httptest.NewServer(c)
	defer srv.Close()
	for _, ends := range []string{"exit 0", "exit 1", "kill -9 $$"} {
		dir := t.TempDir()
		pretend(t, map[string]string{"nix-store": `while [ $# -gt 0 ] && [ "$1" != substituters ]; do shift; done
echo "$2" >` + dir + `/url
curl -sf "$2/nix-cache-info" >` + dir + `/info
` + ends})
		f, s := fetches(t, c, srv)
		path := "/nix/store/00000000000000000000000000000000-x"
		_, err := inHand(f, hosts.Host{}, s).pull(t.Context(), transfer{closure: closure{path: path, infos: []cache.Path{{Path: path, NarHash: "sha256:" + strings.Repeat("0", 52)}}}})
		if (err == nil) != (ends == "exit 0") {
			t.Errorf("%s: %v", ends, err)
		}
		url, readErr := os.ReadFile(filepath.Join(dir, "url"))
		info, infoErr := os.ReadFile(filepath.Join(dir, "info"))
		if readErr != nil || infoErr != nil || !strings.HasPrefix(string(info), "StoreDir: /nix/store") {
			t.Fatalf("%s: while it fetched, the cache said %q: %v, %v", ends, info, readErr, infoErr)
		}
		if res, err := http.Get(strings.TrimSpace(string(url)) + "/nix-cache-info"); err == nil {
			res.Body.Close()
			t.Errorf("%s: afterwards it says %s", ends, res.Status)
		}
	}
}

// fetches is an install whose machine is this computer, and is to fetch from srv.
func fetches(t *testing.T, c *cache.Cache, srv *httptest.Server) (*reconciler, *session) {
	t.Helper()
	s := connect(t)
	s.addr = "127.0.0.1"
	port := netip.MustParseAddrPort(srv.Listener.Addr().String()).Port()
	return &reconciler{Installer: &Installer{Hosts: inventory(t, t.TempDir()), Cache: c, CachePort: int(port), Now: time.Now, Log: slog.New(slog.DiscardHandler)}}, s
}

// TestNearer: only --substituters-on-target fetches from the machine's own caches, and believes their keys.
func TestNearer(t *testing.T) {
	n, dir := flake(t, `{ outputs = { self }: { nixosConfigurations.a.config.system.build.x = derivation { name = "nearer"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo nearer >$out" ]; }; }; }`)
	path, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := pathInfos(t.Context(), n.Settings, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{
		{"nix-store", "--generate-binary-cache-key", "near-1", dir + "/secret", dir + "/public"},
		append(append([]string{"nix"}, nix.Features...), "copy", "--to", "file://"+dir+"/near?secret-key="+dir+"/secret", path),
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", argv, err, out)
		}
	}
	public, err := os.ReadFile(dir + "/public")
	if err != nil {
		t.Fatal(err)
	}
	// The machine's nix.conf.
	t.Setenv("NIX_CONFIG", os.Getenv("NIX_CONFIG")+"\nsubstituters = file://"+dir+"/near\ntrusted-public-keys = "+string(public))
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	c := new(cache.Cache)
	srv := httptest.NewServer(c)
	defer srv.Close()
	for _, nearer := range []bool{false, true} {
		f, s := fetches(t, c, srv)
		cl := closure{path: path, paths: map[string]int64{path: infos[0].NarSize}, infos: infos}
		o, err := inHand(f, hosts.Host{}, s).offer(cl)
		if err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		nearHost := hosts.Host{Choices: hosts.Choices{TargetSubstitutes: nearer}}
		sent, err := inHand(f, nearHost, s).pull(t.Context(), transfer{closure: cl, root: root, offer: o})
		if err != nil || sent != infos[0].NarSize {
			t.Errorf("nearer: %t: %d bytes of %d, %v", nearer, sent, infos[0].NarSize, err)
		}
		if ours := o.Sent() > 0; ours == nearer {
			t.Errorf("nearer: %t; from our cache: %t", nearer, ours)
		}
		if _, err := os.Stat(root + path); err != nil {
			t.Error(err)
		}
		o.Close()
	}
}

func TestPullProgress(t *testing.T) {
	p := pullProgress{share: new(cache.Share), from: "http://192.0.2.1/cache/X", sizes: map[string]int64{"/nix/store/a": 10, "/nix/store/b": 5}}
	var said lastLines
	for _, line := range []string{"copying 3 paths...", "copying path '/nix/store/a' from 'https://near.example'...", "copying path '/nix/store/b' from 'http://192.0.2.1/cache/X'...", "error: no", "copying path '"} {
		p.read(line, &said)
	}
	if p.bytes() != 10 || p.largest() != 10 {
		t.Errorf("%d bytes, the largest %d", p.bytes(), p.largest())
	}
	if want := ":\n  error: no"; said.String() != want {
		t.Errorf("said%q", said)
	}
}

// TestCompress: over a slow network, what is offered is compressed; over a fast one it is not, and not if the machine cannot tell.
func TestCompress(t *testing.T) {
	for _, tt := range []struct {
		rate     int64 // bytes a second; 0: as fast as it goes
		machine  map[string]string
		compress bool
	}{
		{rate: 2 << 20, compress: true},
		{rate: 0},
		{rate: 2 << 20, machine: map[string]string{"bash": "exit 1"}},
	} {
		c := new(cache.Cache)
		srv := httptest.NewUnstartedServer(c)
		if tt.rate > 0 {
			srv.Listener = lab.Slow(srv.Listener, tt.rate)
		}
		srv.Start()
		defer srv.Close()
		pretend(t, tt.machine)
		f, s := fetches(t, c, srv)
		hash := strings.Repeat("0", 32)
		o, err := inHand(f, hosts.Host{}, s).offer(closure{infos: []cache.Path{{Path: "/nix/store/" + hash + "-x", NarHash: "sha256:" + strings.Repeat("0", 52)}}})
		if err != nil {
			t.Fatal(err)
		}
		inHand(f, hosts.Host{}, s).compress(t.Context(), o)
		res, err := http.Get(o.url + "/" + hash + ".narinfo")
		if err != nil {
			t.Fatal(err)
		}
		info, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || strings.Contains(string(info), "Compression: zstd") != tt.compress {
			t.Errorf("at %d bytes a second: %v\n%s", tt.rate, err, info)
		}
	}
	for _, tt := range []struct {
		link                                float64
		serverCores, machines, machineCores int
		hashes                              float64
		want                                bool
	}{
		{117e6, 64, 1, 64, 1e9, false}, // Gigabit Ethernet
		{11e6, 2, 1, 4, 60e6, true},    // fast Ethernet, to a small board
		{11e6, 2, 50, 4, 1e9, false},   // for too many at once
		{25e6, 4, 1, 1, 200e6, true},
		{29e6, 4, 1, 2, 40e6, false}, // an emulated machine, whose network is as slow as itself
		{29e6, 4, 1, 0, 1e9, false},
	} {
		if got := faster(tt.link, tt.serverCores, tt.machines, tt.machineCores, tt.hashes); got != tt.want {
			t.Errorf("%+v: %t", tt, got)
		}
	}
}
