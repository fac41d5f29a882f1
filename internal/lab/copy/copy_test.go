// Package copy measures how fast a closure comes into an empty store: out of our binary cache, out of nginx, and by nix
// over SSH, from the store of this computer over its loopback interface.
package copy

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/cache"
)

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		os.Exit(serveCache())
	}
	os.Exit(m.Run())
}

// way is one way of copying.
type way struct {
	name string
	// begin starts what serves, and returns the command that copies into an empty store.
	begin func(w *world, to string) (server *exec.Cmd, argv []string)
}

var ways = []way{
	{"provision", func(w *world, to string) (*exec.Cmd, []string) { return w.provision(to, "none 0") }},
	{"nginx", (*world).nginx},
	{"nginx-copy", (*world).nginxCopy},
	{"ssh-ng", func(w *world, to string) (*exec.Cmd, []string) { return w.ssh(to, "ssh-ng", "false") }},
	{"ssh", func(w *world, to string) (*exec.Cmd, []string) { return w.ssh(to, "ssh", "false") }},
	{"ssh-compressed", func(w *world, to string) (*exec.Cmd, []string) { return w.ssh(to, "ssh", "true") }},
}

// result is what one copy came to.
type result struct {
	took   time.Duration
	server float64 // processor time of the server, seconds per GB; sshd's is that of its children, and not counted
}

// BenchmarkCopy copies a closure of 1,000 paths and 600 MB in each way in turn, and tells the medians of the rounds, and of
// their ratios.
func BenchmarkCopy(b *testing.B) {
	w := newWorld(b)
	all := make([][]result, len(ways))
	for i := range ways {
		w.round(ways[i]) // into the page cache
	}
	for b.Loop() {
		for i := range ways {
			all[i] = append(all[i], w.round(ways[i]))
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(len(w.infos)), "paths")
	b.ReportMetric(float64(w.size)/1e6, "MB")
	for i, way := range ways {
		b.ReportMetric(median(all[i], func(_ int, r result) float64 { return r.took.Seconds() }), "s-"+way.name)
		if i > 0 {
			b.ReportMetric(median(all[i], func(k int, r result) float64 { return all[0][k].took.Seconds() / r.took.Seconds() }), "time:"+way.name)
		}
	}
	for i, way := range ways[:3] {
		b.ReportMetric(median(all[i], func(_ int, r result) float64 { return r.server }), "cpu-s/GB-"+way.name)
		b.ReportMetric(median(all[i], func(k int, r result) float64 { return all[0][k].server / r.server }), "cpu:"+way.name)
	}
}

// BenchmarkSlow copies it over a network of 25 MB a second, without compression and with zstd.
func BenchmarkSlow(b *testing.B) {
	w := newWorld(b)
	took := map[string][]result{}
	for b.Loop() {
		for _, compression := range []string{"none", "zstd"} {
			r := w.round(way{compression, func(w *world, to string) (*exec.Cmd, []string) { return w.provision(to, compression+" 25000000") }})
			took[compression] = append(took[compression], r)
		}
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(took["none"], func(_ int, r result) float64 { return r.took.Seconds() }), "s-none")
	b.ReportMetric(median(took["zstd"], func(_ int, r result) float64 { return r.took.Seconds() }), "s-zstd")
	b.ReportMetric(median(took["zstd"], func(_ int, r result) float64 { return r.server }), "cpu-s/GB-zstd")
	b.ReportMetric(median(took["zstd"], func(k int, r result) float64 { return r.took.Seconds() / took["none"][k].took.Seconds() }), "time:none")
}

func median(rounds []result, of func(int, result) float64) float64 {
	var all []float64
	for k, r := range rounds {
		all = append(all, of(k, r))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// world is a closure, a binary cache of it for nginx, and keys for SSH.
type world struct {
	testing.TB
	dir   string
	top   string // the closure's root
	infos []cache.Path
	size  int64  // bytes of NARs
	key   string // public half of what the binary cache for nginx is signed with
	sshd  string // address of the SSH server

	before float64 // processor time that the server took before it served, seconds
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// run runs nix, or what comes with it, and returns what it prints.
func (w *world) run(argv ...string) string {
	w.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = w.env()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// env keeps nix from what it remembers of caches and from those that it is told to ask.
func (w *world) env() []string {
	return append(os.Environ(), "XDG_CACHE_HOME="+w.TempDir(), "NIX_CONFIG=experimental-features = nix-command\nsubstituters =\nbuild-users-group =\nsandbox = false\n",
		"NIX_SSHOPTS=-F /dev/null -i "+w.dir+"/id -p "+w.port()+" -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile="+w.dir+"/known -o Ciphers=aes128-gcm@openssh.com")
}

func (w *world) port() string {
	_, port, _ := net.SplitHostPort(w.sshd)
	return port
}

func newWorld(b *testing.B) *world {
	b.Helper()
	// Both ends are in memory: what is measured is the way between them.
	dir, err := os.MkdirTemp("/dev/shm", "copy-")
	w := &world{TB: b, dir: dir}
	w.must(err)
	b.Cleanup(func() { w.must(os.RemoveAll(dir)) })
	w.closure()
	w.must(os.Mkdir(filepath.Join(dir, "cache"), 0o755))
	w.run("nix-store", "--generate-binary-cache-key", "nginx-1", filepath.Join(dir, "secret"), filepath.Join(dir, "public"))
	public, err := os.ReadFile(filepath.Join(dir, "public"))
	w.must(err)
	w.key = string(public)
	w.run("nix", "copy", "--to", "file://"+dir+"/cache?compression=none&secret-key="+dir+"/secret", w.top)
	w.startSSHD()
	return w
}

// closure builds it: a thousand paths, of which a few are large, as in a NixOS system, and each refers to some others. Two
// thirds of their bytes can be compressed well.
func (w *world) closure() {
	w.must(writeData(filepath.Join(w.dir, "data")))
	w.must(os.WriteFile(filepath.Join(w.dir, "closure.nix"), []byte(closure), 0o644))
	w.top = w.run("nix-build", "--no-out-link", filepath.Join(w.dir, "closure.nix"))
	infos, err := cache.ParsePaths([]byte(w.run("nix", "path-info", "--json", "--recursive", w.top)))
	w.must(err)
	w.infos = infos
	for _, p := range w.infos {
		w.size += p.NarSize
	}
}

// closure's data is of 16 MB; the path k has ten files of 1 to 10 kB and one that is larger; every 25th is of some 11 MB.
const closure = `
let
  data = builtins.path { path = ./data; name = "data"; };
  paths = builtins.genList path 1000;
  path = k: derivation {
    name = "path-${toString k}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = builtins.getEnv "PATH";
    refs = map (builtins.elemAt paths) (builtins.filter (r: r >= 0 && r < k) [ (k / 2) (k / 3) (k - 7) ]);
    large = if k - k / 25 * 25 == 0 then 11000000 else 110000 + k * 100;
    args = [ "-c" ''
      mkdir -p $out/share/doc && cd $out || exit 1
      piece() { tail -c +$1 ${data} | head -c $2; }
      for i in 1 2 3 4 5 6 7 8 9 10; do piece $((${toString k} * 1000 + i * 5000)) $((i * 1000)) >share/doc/$i; done
      piece $((${toString k} * 4000)) $large >lib
      echo $refs >refs
    '' ];
  };
in derivation {
  name = "top"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = builtins.getEnv "PATH";
  all = paths;
  args = [ "-c" "echo $all >$out" ];
}`

// writeData writes 16 MB: of each three blocks, two are of words and one is random.
func writeData(path string) error {
	random := newRandom()
	var data []byte
	for len(data) < 16<<20 {
		for range 2 {
			for end := len(data) + 8<<10; len(data) < end; {
				data = fmt.Appendf(data, "%s-%d ", words[random.IntN(len(words))], random.IntN(100))
			}
		}
		for range 8 << 10 {
			data = append(data, byte(random.Uint32()))
		}
	}
	return os.WriteFile(path, data, 0o644)
}

// round copies once into an empty store.
func (w *world) round(way way) result {
	w.Helper()
	to := filepath.Join(w.dir, "to")
	w.before = 0
	w.must(os.Mkdir(to, 0o755))
	server, argv := way.begin(w, to)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = w.env()
	stderr, err := os.Create(filepath.Join(w.dir, "stderr"))
	w.must(err)
	defer stderr.Close()
	cmd.Stderr = stderr
	begun := time.Now()
	err = cmd.Run()
	r := result{took: time.Since(begun)}
	if err != nil {
		text, _ := os.ReadFile(stderr.Name())
		w.Fatalf("%s: %v: %s", way.name, err, text[max(0, len(text)-4000):])
	}
	if server != nil {
		w.must(server.Process.Signal(unix.SIGTERM))
		server.Wait() // nginx exits with 0, ours by the signal
		r.server = ((server.ProcessState.UserTime() + server.ProcessState.SystemTime()).Seconds() - w.before) / (float64(w.size) / 1e9)
	}
	if got := strings.Count(w.run("nix-store", "--store", to, "--query", "--requisites", w.top), "\n") + 1; got != len(w.infos) {
		w.Fatalf("%s: %d paths arrived of %d", way.name, got, len(w.infos))
	}
	w.must(os.RemoveAll(to))
	return r
}
