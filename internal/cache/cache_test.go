package cache

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// run runs nix, or a program beside it, and returns what it prints.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	return until(t.Context(), t, name, args...)
}

// until kills the program when ctx ends.
func until(ctx context.Context, t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	switch name {
	case "nix-store":
		args = append([]string{"--option", "build-users-group", ""}, args...)
	case "nix":
		args = append([]string{"--extra-experimental-features", "nix-command", "--option", "substituters", "", "--option", "build-users-group", ""}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir()) // what nix remembers of caches
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// tree is a folder with all that a store path may hold.
func tree(t testing.TB, salt string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	random := rand.New(rand.NewPCG(1, uint64(len(salt))))
	for name, size := range map[string]int{"empty": 0, "one": 1, "seven": 7, "eight": 8, "sub/nine": 9, "sub.file": 100, "sub/.hidden": 20,
		"large": sendfile, "larger": sendfile + 1, "z/huge": 5<<20 + 3} {
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		must(t, os.WriteFile(file, data, 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "salt"), []byte(salt), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o755))
	must(t, os.Symlink("../nowhere", filepath.Join(dir, "link")))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add builds the tree into the store. What is only added names itself by its content, and needs no signature.
func add(t testing.TB, salt string) string {
	t.Helper()
	expression := fmt.Sprintf(`derivation { name = "tree"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = builtins.getEnv "PATH";
		args = [ "-c" "cp -r ${%s} $out; chmod -R u+w $out; echo $out >$out/self" ]; }`, tree(t, salt))
	return run(t, "nix-build", "--no-out-link", "--option", "sandbox", "false", "--option", "substituters", "", "--option", "build-users-group", "", "-E", expression)
}

func infos(t testing.TB, paths ...string) []Path {
	t.Helper()
	all, err := ParsePaths([]byte(run(t, "nix", append([]string{"path-info", "--json", "--recursive"}, paths...)...)))
	must(t, err)
	return all
}

func TestNAR(t *testing.T) {
	dir := tree(t, "")
	want, err := exec.Command("nix-store", "--dump", dir).Output()
	must(t, err)
	size := int64(len(want))
	offsets := []int64{0, 1, size - 1, size}
	for range 30 {
		offsets = append(offsets, rand.Int64N(size))
	}
	for _, from := range offsets {
		var b bytes.Buffer
		var sent atomic.Int64
		if err := writeNAR(&b, dir, size, from, &sent); err != nil || sent.Load() != size-from || !bytes.Equal(b.Bytes(), want[from:]) {
			t.Fatalf("from %d: %d bytes, %v; not what nix writes", from, sent.Load(), err)
		}
	}
	for _, file := range []string{"link", "empty", "salt", "folder"} {
		want, err := exec.Command("nix-store", "--dump", filepath.Join(dir, file)).Output()
		must(t, err)
		var b bytes.Buffer
		if err := writeNAR(&b, filepath.Join(dir, file), int64(len(want)), 0, new(atomic.Int64)); err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: %v; not what nix writes", file, err)
		}
	}
	if err := writeNAR(io.Discard, dir, size-8, 0, new(atomic.Int64)); err == nil || !strings.Contains(err.Error(), "it was changed; repair it") {
		t.Errorf("another size than nix knows: %v", err)
	}
}

// TestDescribe: what is signed is what the go-nix library reads in a narinfo, whatever the order of the references.
func TestDescribe(t *testing.T) {
	name := func(c string) string { return "/nix/store/" + strings.Repeat(c, 32) + "-x" }
	s, err := new(Cache).Open(loopback, []Path{{Path: name("1"), NarHash: "sha256:" + strings.Repeat("0", 52), NarSize: 120, References: []string{name("3"), name("2")}}})
	must(t, err)
	n, err := narinfo.Parse(strings.NewReader(s.paths[strings.Repeat("1", 32)].info))
	must(t, err)
	key, err := signature.ParsePublicKey(s.PublicKey)
	must(t, err)
	if len(n.References) != 2 || !signature.VerifyFirst(n.Fingerprint(), n.Signatures, []signature.PublicKey{key}) {
		t.Errorf("the signature is not of\n%s", n)
	}
}

// serve serves a cache, each request by way of change if that is not nil.
func serve(t testing.TB, c *Cache, change func(http.Handler) http.Handler) (url string) {
	t.Helper()
	h := http.Handler(c)
	if change != nil {
		h = change(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.ServeHTTP(struct{ http.ResponseWriter }{w}, r) // whose connection cannot be taken
		}))
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL + Prefix
}

func pull(t testing.TB, url string, s *Share, to, path string, more ...string) error {
	t.Helper()
	argv := Fetch(url+s.Token, s.PublicKey, to, false, append(more, path)...)
	_, err := try(t, argv[0], argv[1:]...)
	return err
}

func TestPull(t *testing.T) {
	path, other := add(t, "pull"), add(t, "other")
	c := new(Cache)
	url := serve(t, c, nil)
	s, err := c.Open(loopback, infos(t, path))
	must(t, err)
	to := t.TempDir()
	must(t, pull(t, url, s, to, path))
	run(t, "nix-store", "--store", to, "--verify", "--check-contents")
	if want := infos(t, path)[0].NarSize; s.Sent() != want {
		t.Errorf("%d bytes sent, want %d", s.Sent(), want)
	}
	s.Compress()
	to = t.TempDir()
	must(t, pull(t, url, s, to, path))
	run(t, "nix-store", "--store", to, "--verify", "--check-contents")
	if want := 2 * infos(t, path)[0].NarSize; s.Sent() != want {
		t.Errorf("%d bytes sent in all, want %d", s.Sent(), want)
	}
	if err := pull(t, url, s, t.TempDir(), other); err == nil || !strings.Contains(err.Error(), "'"+other+"'") {
		t.Errorf("a path that is not shared: %v", err)
	}
	s.Close()
	if err := pull(t, url, s, t.TempDir(), path); err == nil {
		t.Error("the share is open after its end")
	}
}

func TestStrangers(t *testing.T) {
	path := add(t, "strangers")
	c := new(Cache)
	url := serve(t, c, nil)
	elsewhere, err := c.Open(netip.MustParseAddr("192.0.2.1"), infos(t, path))
	must(t, err)
	for _, token := range []string{elsewhere.Token, "", "x", "../" + elsewhere.Token} {
		for _, file := range []string{"/nix-cache-info", "/nar/x.nar", ""} {
			if res, err := http.Get(url + token + file); err == nil {
				res.Body.Close()
				t.Errorf("%s%s: %s", token, file, res.Status)
			}
		}
	}
}

// TestTwo: two machines that install at the same time get each its own closure by its own token, and nothing of the other's.
func TestTwo(t *testing.T) {
	c := new(Cache)
	url := serve(t, c, nil)
	var paths [2]string
	var shares [2]*Share
	for i := range paths {
		paths[i] = add(t, fmt.Sprint("two", i))
		s, err := c.Open(loopback, infos(t, paths[i]))
		must(t, err)
		shares[i] = s
	}
	for i, s := range shares {
		for k, path := range paths {
			hash, _, _ := strings.Cut(filepath.Base(path), "-")
			for _, file := range []string{"/" + hash + ".narinfo", "/nar/" + hash + ".nar"} {
				res, err := http.Get(url + s.Token + file)
				must(t, err)
				res.Body.Close()
				if got := res.StatusCode == http.StatusOK; got != (i == k) {
					t.Errorf("token %d, closure %d, %s: %s", i, k, file, res.Status)
				}
			}
			if err := pull(t, url, s, t.TempDir(), path); (err == nil) != (i == k) {
				t.Errorf("token %d pulls closure %d: %v", i, k, err)
			}
		}
	}
	shares[0].Close()
	if err := pull(t, url, shares[1], t.TempDir(), paths[1]); err != nil {
		t.Errorf("the other's install is over: %v", err)
	}
}

// altered serves the cache, with what it answers to certain names changed.
func altered(change func(name string, body []byte) []byte) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			w.WriteHeader(rec.Code)
			w.Write(change(r.URL.Path, rec.Body.Bytes()))
		})
	}
}

// TestAltered: who sits in the network can change nothing.
func TestAltered(t *testing.T) {
	path := add(t, "altered")
	line := func(key, value string) func(string, []byte) []byte {
		return func(name string, body []byte) []byte {
			if !strings.HasSuffix(name, ".narinfo") {
				return body
			}
			lines := strings.SplitAfter(string(body), "\n")
			i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key+": ") })
			if i < 0 {
				t.Errorf("a narinfo has no %s:\n%s", key, body)
				return body
			}
			lines[i] = key + ": " + value + "\n"
			return []byte(strings.Join(lines, ""))
		}
	}
	other := strings.Repeat("0", 52)
	for name, change := range map[string]func(string, []byte) []byte{
		"nothing": func(_ string, body []byte) []byte { return body },
		"a byte of the NAR": func(name string, body []byte) []byte {
			if strings.HasSuffix(name, ".nar") {
				body[len(body)/2] ^= 1
			}
			return body
		},
		"the NAR cut short": func(name string, body []byte) []byte {
			if strings.HasSuffix(name, ".nar") {
				return body[:len(body)-8]
			}
			return body
		},
		"URL":         line("URL", "nar/"+other+".nar"),
		"Compression": line("Compression", "xz"),
		"StorePath":   line("StorePath", path[:len(path)-4]+"free"),
		"NarHash":     line("NarHash", "sha256:"+other),
		"NarSize":     line("NarSize", "8"),
		"References":  line("References", ""),
		"Sig":         line("Sig", "provision-x:"+strings.Repeat("A", 86)+"=="),
		"no Sig":      line("Sig", ""),
	} {
		c := new(Cache)
		url := serve(t, c, altered(change))
		s, err := c.Open(loopback, infos(t, path))
		must(t, err)
		to := t.TempDir()
		if err := pull(t, url, s, to, path); (err == nil) != (name == "nothing") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "nothing" {
			continue
		}
		if _, err := try(t, "nix-store", "--store", to, "--check-validity", path); err == nil {
			t.Errorf("%s: the path is valid", name)
		}
	}
	// Another install's key is no good for this one.
	c := new(Cache)
	url := serve(t, c, nil)
	one, err := c.Open(loopback, infos(t, path))
	must(t, err)
	two, err := c.Open(loopback, infos(t, path))
	must(t, err)
	one.PublicKey = two.PublicKey
	if err := pull(t, url, one, t.TempDir(), path); err == nil || !strings.Contains(err.Error(), "not signed by any") {
		t.Errorf("signed by another key: %v", err)
	}
}

// TestBroken: a connection that breaks in a NAR goes on from there, by a Range.
func TestBroken(t *testing.T) {
	path := add(t, "broken")
	c := new(Cache)
	srv := httptest.NewUnstartedServer(c)
	l := &breaking{Listener: srv.Listener}
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	all := infos(t, path)
	s, err := c.Open(loopback, all)
	must(t, err)
	to := t.TempDir()
	must(t, pull(t, srv.URL+Prefix, s, to, path))
	if err := s.Err(); err != nil {
		t.Errorf("the store is blamed: %v", err)
	}
	if whole := all[0].NarSize; !l.broke.Load() || s.Sent() < whole || s.Sent() > whole*5/4 {
		t.Errorf("%d bytes were sent of %d; a connection broke: %t", s.Sent(), whole, l.broke.Load())
	}
	run(t, "nix-store", "--store", to, "--verify", "--check-contents")
}

// breaking breaks the first connection that had 2 MB.
type breaking struct {
	net.Listener
	broke atomic.Bool
}

func (b *breaking) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	return &short{Conn: c, of: b, left: 2 << 20}, err
}

type short struct {
	net.Conn
	of   *breaking
	left int
}

func (s *short) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 && s.of.broke.CompareAndSwap(false, true) {
		s.Conn.Close()
	}
	return s.Conn.Write(p)
}

// TestLine: what is asked on a connection after its first request.
func TestLine(t *testing.T) {
	path := add(t, "line")
	c := new(Cache)
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	all := infos(t, path)
	s, err := c.Open(loopback, all)
	must(t, err)
	hash, _, _ := strings.Cut(filepath.Base(path), "-")
	info := "/" + hash + ".narinfo"
	get := func(method, url, more string) string {
		return method + " " + Prefix + s.Token + url + " HTTP/1.1\r\nHost: x\r\n" + more + "\r\n"
	}
	for name, c := range map[string]struct {
		second string
		status int // 0: the connection ends
		body   int64
		closed bool
	}{
		"again":           {second: get("GET", info, ""), status: 200, body: int64(len(s.paths[hash].info))},
		"head":            {second: get("HEAD", info, ""), status: 200},
		"part of a NAR":   {second: get("GET", "/nar/"+hash+".nar", "Range: bytes=100-\r\n"), status: 206, body: all[0].NarSize - 100},
		"unknown":         {second: get("GET", "/x.narinfo", ""), status: 404, body: 20},
		"compressed":      {second: get("GET", "/nar/"+hash+".nar.zst", ""), status: 200, body: -1},
		"compressed head": {second: get("HEAD", "/nar/"+hash+".nar.zst", ""), status: 200},
		"POST":            {second: get("POST", info, ""), status: 405, body: 18},
		"with a body":     {second: get("GET", info, "Content-Length: 3\r\n") + "abc"},
		"in parts":        {second: get("GET", info, "transfer-encoding: chunked\r\n") + "0\r\n\r\n"},
		"a long header":   {second: get("GET", info, "X: "+strings.Repeat("x", 10000)+"\r\n")},
		"old HTTP":        {second: strings.Replace(get("GET", info, ""), "1.1", "1.0", 1)},
		"of a proxy":      {second: "GET http://x" + Prefix + s.Token + info + " HTTP/1.1\r\nHost: x\r\n\r\n"},
		"the last":        {second: get("GET", info, "Connection: close\r\n"), status: 200, body: int64(len(s.paths[hash].info)), closed: true},
		"another token":   {second: "GET " + Prefix + "x" + info + " HTTP/1.1\r\nHost: x\r\n\r\n"},
		"not of a cache":  {second: "GET /boot HTTP/1.1\r\nHost: x\r\n\r\n"},
		"no HTTP":         {second: "hello\r\n\r\n"},
		"endless headers": {second: get("GET", info, "X: "+strings.Repeat("x", lineRequest)+"\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", srv.Listener.Addr().String())
			must(t, err)
			defer conn.Close()
			r := bufio.NewReader(conn)
			read := func(request string) *http.Response {
				t.Helper()
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
				verb, _, _ := strings.Cut(request, " ")
				res, err := http.ReadResponse(r, &http.Request{Method: verb})
				if err != nil {
					return nil
				}
				return res
			}
			drain := func(res *http.Response) int64 {
				n, err := io.Copy(io.Discard, res.Body)
				must(t, err)
				return n
			}
			if n := drain(read(get("GET", "/nix-cache-info", ""))); n != 51 {
				t.Fatalf("nix-cache-info has %d bytes", n)
			}
			res := read(c.second)
			if res == nil {
				if c.status != 0 {
					t.Error("the connection ended")
				}
				return
			}
			if n := drain(res); res.StatusCode != c.status || n != c.body && c.body >= 0 {
				t.Errorf("%s, %d bytes; want %d, %d bytes", res.Status, n, c.status, c.body)
			}
			if again := read(get("GET", info, "")); (again == nil) != c.closed {
				t.Errorf("then: %v", again)
			}
		})
	}
}

// TestResume: when nix was killed in the middle, what had arrived is not sent again.
func TestResume(t *testing.T) {
	var paths []string
	for i := range 4 {
		paths = append(paths, add(t, fmt.Sprint("resume", i)))
	}
	all := infos(t, paths...)
	c := new(Cache)
	var mu sync.Mutex
	given := make(map[string]bool) // the first two that are asked for, maybe more than once
	mayHave := func(path string) bool {
		mu.Lock()
		defer mu.Unlock()
		if len(given) < 2 {
			given[path] = true
		}
		return given[path]
	}
	var killed atomic.Bool
	url := serve(t, c, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".nar") && !killed.Load() && !mayHave(r.URL.Path) {
				<-r.Context().Done() // as the nix that asks is killed
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	s, err := c.Open(loopback, all)
	must(t, err)
	to := t.TempDir()
	arrived := func() (n int, bytes int64) {
		for _, p := range all {
			if _, err := try(t, "nix-store", "--store", to, "--check-validity", p.Path); err == nil {
				n++
				bytes += p.NarSize
			}
		}
		return n, bytes
	}
	arrived() // two that find no store at the same time fail to make it
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	done := make(chan error, 1)
	go func() {
		argv := Fetch(url+s.Token, s.PublicKey, to, false, paths...)
		_, err := until(ctx, t, argv[0], argv[1:]...)
		done <- err
	}()
	had, bytes := 0, int64(0)
	for tick := time.NewTicker(20 * time.Millisecond); had < 2; <-tick.C { // nothing tells when nix has noted a path
		select {
		case err := <-done:
			t.Fatalf("it ended before two paths had arrived: %v", err)
		default:
		}
		had, bytes = arrived()
	}
	kill()
	if err := <-done; err == nil || had != 2 {
		t.Fatalf("%d paths had arrived, %v", had, err)
	}
	killed.Store(true)
	sent, whole := s.Sent(), int64(0)
	for _, p := range all {
		whole += p.NarSize
	}
	must(t, pull(t, url, s, to, paths[0], paths[1:]...))
	if more := s.Sent() - sent; more != whole-bytes {
		t.Errorf("%d bytes were sent then; %d of %d had arrived", more, bytes, whole)
	}
	run(t, "nix-store", "--store", to, "--verify", "--check-contents")
}
