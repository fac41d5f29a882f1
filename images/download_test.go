package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A mirror serves files as a test wants it to.
type mirror struct {
	files map[string]string // by URL path
	tags  map[string]string
	mu    sync.Mutex
	log   []string // "GET /path range"
	// before answers instead, if it says so. n counts the requests for the path.
	before func(w http.ResponseWriter, r *http.Request, n int) bool
	counts map[string]int
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.log = append(m.log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	if m.counts == nil {
		m.counts = map[string]int{}
	}
	m.counts[r.URL.Path]++
	n := m.counts[r.URL.Path]
	data, found := m.files[r.URL.Path]
	tag := m.tags[r.URL.Path]
	m.mu.Unlock()
	if m.before != nil && m.before(w, r, n) {
		return
	}
	if !found {
		http.NotFound(w, r)
		return
	}
	if tag == "" {
		tag = `"` + sum(data)[:8] + `"`
	}
	w.Header().Set("ETag", tag)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
}

func (m *mirror) asked(want string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, line := range m.log {
		if strings.Contains(line, want) {
			n++
		}
	}
	return n
}

func sum(data string) string {
	h := sha256.Sum256([]byte(data))
	return hex.EncodeToString(h[:])
}

// release is what a release of nixos-images has, below prefix.
func release(t *testing.T, prefix, arch, content string) map[string]string {
	t.Helper()
	src := files(t, content)
	kernel, err := os.ReadFile(src.Kernel)
	must(t, err)
	name := "bzImage"
	if arch == "aarch64" {
		name, kernel = "Image", arm64Kernel()
	}
	initrd, err := os.ReadFile(src.Initrd)
	must(t, err)
	name += "-" + arch + "-linux"
	return map[string]string{
		prefix + name: string(kernel), prefix + "initrd-" + arch + "-linux": string(initrd),
		prefix + "netboot-" + arch + "-linux.ipxe": fmt.Sprintf(script, name, "initrd", "initrd")}
}

// catalogFor is a catalog that trusts the server and waits for nothing.
func catalogFor(t *testing.T, s *httptest.Server) *Catalog {
	c := open(t, filepath.Join(t.TempDir(), "images"))
	c.http.client = s.Client()
	c.http.pause = func(ctx context.Context, _ int) error { return ctx.Err() }
	return c
}

func TestFromURL(t *testing.T) {
	m := &mirror{files: release(t, "/v1/", "x86_64", "one")}
	for name, data := range release(t, "/v1/", "aarch64", "two") {
		m.files[name] = data
	}
	for name, data := range release(t, "/arm/", "aarch64", "two") {
		m.files[name] = data
	}
	src := files(t, "one")
	tarball, err := os.ReadFile(kexecTarball(t, "gzip", src))
	must(t, err)
	m.files["/kexec.tar.gz"] = string(tarball)
	s := httptest.NewTLSServer(m)
	defer s.Close()

	c := catalogFor(t, s)
	var seen []string
	img, err := c.From(t.Context(), Request{Name: "a", Arch: X86_64, From: s.URL + "/v1"}, func(p Progress) {
		if len(seen) == 0 || seen[len(seen)-1] != p.Doing {
			seen = append(seen, p.Doing)
		}
		if p.Done > p.Total {
			t.Errorf("%+v", p)
		}
	})
	must(t, err)
	if want := add(t, c, "files", src); img.Kernel != want.Kernel || img.Initrd != want.Initrd || img.From != s.URL+"/v1" || img.Checked != "https" ||
		!strings.HasPrefix(img.Cmdline, "init=/nix/store/i-nixos-system-nixos/init") {
		t.Errorf("got %+v", img)
	}
	if want := "downloading netboot-x86_64-linux.ipxe, downloading bzImage-x86_64-linux, downloading initrd-x86_64-linux, storing"; strings.Join(seen, ", ") != want {
		t.Errorf("told %q", seen)
	}
	_, err = c.From(t.Context(), Request{Name: "b", From: s.URL + "/v1/"}, nil)
	checkErr(t, err, "say which with --arch")
	arm, err := c.From(t.Context(), Request{Name: "b", From: s.URL + "/arm/"}, nil)
	must(t, err)
	if arm.Arch != AArch64 {
		t.Errorf("got %+v", arm)
	}
	_, err = c.From(t.Context(), Request{Name: "b", From: s.URL + "/none/"}, nil)
	checkErr(t, err, "/none/ has no netboot.ipxe, and no netboot-ARCH")
	_, err = c.From(t.Context(), Request{Name: "b", Arch: X86_64, From: s.URL + "/arm/"}, nil)
	checkErr(t, err, "has no netboot.ipxe")
	kexec, err := c.From(t.Context(), Request{Name: "kexec", From: s.URL + "/kexec.tar.gz"}, nil)
	must(t, err)
	if kexec.Kernel != img.Kernel || kexec.Initrd != img.Initrd {
		t.Errorf("got %+v", kexec)
	}
	if left := content(t, c); strings.Contains(left, partialPrefix) || strings.Contains(left, tmpPrefix) {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestDigests(t *testing.T) {
	good := release(t, "/", "x86_64", "one")
	given := map[string]string{}
	var sums strings.Builder
	for name, data := range good {
		given[name[1:]] = sum(data)
		fmt.Fprintf(&sums, "%s  %s\n", sum(data), name[1:])
	}
	with := func(edit func(files map[string]string)) *mirror {
		m := &mirror{files: map[string]string{}}
		for name, data := range good {
			m.files[name] = data
		}
		edit(m.files)
		return m
	}
	without := func(name string) map[string]string {
		some := map[string]string{}
		for n, d := range given {
			if n != name {
				some[n] = d
			}
		}
		return some
	}
	const initrd = "/initrd-x86_64-linux"
	damage := func(files map[string]string) { files[initrd] = strings.Replace(files[initrd], "one", "eno", 1) }
	for _, test := range []struct {
		name    string
		m       *mirror
		plain   bool // http
		given   map[string]string
		checked string
		err     string
	}{
		{"https", with(func(map[string]string) {}), false, nil, "https", ""},
		{"given", with(func(map[string]string) {}), false, given, "digest given", ""},
		{"given, plain http", with(func(map[string]string) {}), true, given, "digest given", ""},
		{"given, damaged", with(damage), true, given, "", "and the digest given is " + sum(good[initrd])},
		{"one not given, plain http", with(func(map[string]string) {}), true, without("initrd-x86_64-linux"), "", "anyone on the way can change"},
		{"none given, plain http", with(func(map[string]string) {}), true, nil, "", "--sha256 netboot-x86_64-linux.ipxe=HEX"},
		{"published beside", with(func(f map[string]string) {
			for name, data := range good {
				f[name+".sha256"] = sum(data) + "  some-other-name\n"
			}
		}), false, nil, "digest published beside it", ""},
		{"published for one", with(func(f map[string]string) { f[initrd+".sha256"] = sum(good[initrd]) }), false, nil, "https", ""},
		{"published beside, damaged", with(func(f map[string]string) { damage(f); f[initrd+".sha256"] = sum(good[initrd]) }), false, nil, "", "and the digest published beside it is"},
		{"SHA256SUMS", with(func(f map[string]string) { f["/SHA256SUMS"] = sums.String() }), false, nil, "digest published beside it", ""},
		{"sha256sums", with(func(f map[string]string) { f["/sha256sums"] = sums.String() }), false, nil, "digest published beside it", ""},
		{"SHA256SUMS, damaged", with(func(f map[string]string) { f["/SHA256SUMS"] = sums.String(); damage(f) }), false, nil, "", "published beside it is"},
		{"SHA256SUMS of others", with(func(f map[string]string) { f["/SHA256SUMS"] = sum("x") + "  x\n" }), false, nil, "https", ""},
		{"a page for everything", with(func(f map[string]string) { f["/SHA256SUMS"] = "<!DOCTYPE html>" }), false, nil, "https", ""},
		{"a digest of no file", with(func(map[string]string) {}), false, map[string]string{"vmlinuz": sum("")}, "", `"vmlinuz": the image has no file of that name`},
		{"one digest for many", with(func(map[string]string) {}), false, map[string]string{"": sum("")}, "", "several files"},
		{"no digest", with(func(map[string]string) {}), false, map[string]string{"x": "abc"}, "", "64 lower-case hex"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewTLSServer(test.m)
			defer s.Close()
			c, from := catalogFor(t, s), s.URL
			if test.plain {
				from = "http://mirror.example"
				c.http.client = &http.Client{Transport: answers(test.m)}
			}
			img, err := c.From(t.Context(), Request{Name: "a", From: from, SHA256: test.given}, nil)
			checkErr(t, err, test.err)
			if err == nil && img.Checked != test.checked {
				t.Errorf("checked by %q, want %q", img.Checked, test.checked)
			}
			if strings.Contains(test.err, "and the digest") && strings.Contains(content(t, c), partialPrefix) {
				t.Errorf("what is damaged was kept:\n%s", content(t, c))
			}
			if test.plain && test.given == nil && test.m.asked("") > 0 {
				t.Errorf("asked for it all the same: %q", test.m.log)
			}
		})
	}
}

// answers is a transport without a network: a handler answers.
func answers(h http.Handler) http.RoundTripper { return roundTripper{h} }

type roundTripper struct{ http.Handler }

func (rt roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func TestFindDigest(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, test := range []struct {
		text  string
		alone bool
		want  string
	}{
		{a + "  f\n" + b + "  g\n", false, a},
		{b + " *./g\n" + a + " *./f\r\n", false, a},
		{"SHA256 (g) = " + b + "\nSHA256 (f) = " + strings.ToUpper(a), false, a},
		{a, false, ""},
		{a, true, a},
		{a + "  nixos-25.05.iso\n", true, a},
		{a + "  x\n" + b + "  y\n", true, ""},
		{a[1:] + "  f\n", true, ""},
		{"# comment " + a, true, ""},
	} {
		if got := findDigest(test.text, "f", test.alone); got != test.want {
			t.Errorf("%q, alone %v: got %q, want %q", test.text, test.alone, got, test.want)
		}
	}
	for _, test := range []struct{ s, name, digest string }{
		{"f=" + a, "f", a}, {a, "", a}, {"sha256:" + strings.ToUpper(a), "", a}, {"f=sha256:" + a, "f", a},
		{"=" + a, "", "!"}, {"f=", "", "!"}, {a[1:], "", "!"}, {"", "", "!"}, {a + "=f", "", "!"},
	} {
		name, digest, err := ParseDigest(test.s)
		if (err != nil) != (test.digest == "!") || err == nil && (name != test.name || digest != test.digest) {
			t.Errorf("%q: %q, %q, %v", test.s, name, digest, err)
		}
	}
}

// TestResume breaks a download off in many ways; what is added in the end is whole.
func TestResume(t *testing.T) {
	good := release(t, "/", "x86_64", strings.Repeat("one", 1<<18))
	const initrd = "/initrd-x86_64-linux"
	data := good[initrd]
	third := len(data) / 3
	cutAt := func(w http.ResponseWriter, from, to int) { // says all of it is coming
		w.Header().Set("ETag", `"`+sum(data)[:8]+`"`)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		io.WriteString(w, data[from:to])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, test := range []struct {
		name   string
		before func(w http.ResponseWriter, r *http.Request, n int) bool
		ranges int // requests for a part
		err    string
	}{
		{"cut off twice", func(w http.ResponseWriter, _ *http.Request, n int) bool {
			switch n {
			case 1:
				cutAt(w, 0, third)
			case 2:
				cutAt(w, third, 2*third)
			}
			return false
		}, 2, ""},
		{"busy at first", func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if n < 4 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n < 4
		}, 0, ""},
		{"busy forever", func(w http.ResponseWriter, _ *http.Request, n int) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, 0, "the server says 503 Service Unavailable (tried 5 times"},
		{"knows no ranges", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				cutAt(w, 0, third)
			}
			r.Header.Del("Range")
			return false
		}, 1, ""},
		{"changed meanwhile", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				w.Header().Set("ETag", `"old"`)
				w.Header().Set("Content-Length", "1000")
				io.WriteString(w, "old content")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}, 1, ""},
		{"without a validator", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				w.Header().Set("Content-Length", "1000")
				io.WriteString(w, "some")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}, 0, ""},
		{"sends another part", func(w http.ResponseWriter, r *http.Request, n int) bool {
			switch n {
			case 1:
				cutAt(w, 0, third)
			case 2:
				cutAt(w, third+10, third+20)
			}
			return false
		}, 1, ""},
		{"refuses the range", func(w http.ResponseWriter, r *http.Request, n int) bool {
			switch n {
			case 1:
				cutAt(w, 0, third)
			case 2:
				w.Header().Set("Content-Range", "bytes */10")
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return true
			}
			return false
		}, 1, ""},
		{"never sends what it promises", func(w http.ResponseWriter, r *http.Request, n int) bool {
			cutAt(w, 0, third)
			return true
		}, 5, "unexpected EOF (tried 5 times"}, // in a row that brought nothing new
		{"a part that is shorter than told", func(w http.ResponseWriter, r *http.Request, n int) bool {
			switch n {
			case 1:
				cutAt(w, 0, third)
			case 2:
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", third, 2*third-1, len(data)))
				w.Header().Set("ETag", `"`+sum(data)[:8]+`"`)
				w.WriteHeader(http.StatusPartialContent)
				io.WriteString(w, data[third:2*third])
				return true
			}
			return false
		}, 2, ""},
		{"less than it says it has", func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Header().Set("Content-Length", fmt.Sprint(third))
			io.WriteString(w, data[:third])
			return true
		}, 0, "was it downloaded in full?"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &mirror{files: good, before: func(w http.ResponseWriter, r *http.Request, n int) bool {
				return r.URL.Path == initrd && test.before(w, r, n)
			}}
			s := httptest.NewTLSServer(m)
			defer s.Close()
			c := catalogFor(t, s)
			img, err := c.From(t.Context(), Request{Name: "a", From: s.URL}, nil)
			checkErr(t, err, test.err)
			if err == nil && img.Initrd.SHA256 != sum(data) {
				t.Error("it is damaged")
			}
			if n := m.asked(initrd + " bytes="); n != test.ranges {
				t.Errorf("%d requests for a part, want %d: %q", n, test.ranges, m.log)
			}
		})
	}
}

// TestResumeLater goes on in another process, or after it was canceled.
func TestResumeLater(t *testing.T) {
	good := release(t, "/", "x86_64", strings.Repeat("one", 1<<20))
	const initrd = "/initrd-x86_64-linux"
	m := &mirror{files: good}
	s := httptest.NewTLSServer(m)
	defer s.Close()
	c := catalogFor(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.From(ctx, Request{Name: "a", From: s.URL}, func(p Progress) {
		if strings.Contains(p.Doing, "initrd") && p.Done > p.Total/2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("canceled: %v", err)
	}
	again := open(t, c.dir)
	again.http = c.http
	img, err := again.From(t.Context(), Request{Name: "a", From: s.URL}, nil)
	must(t, err)
	if img.Initrd.SHA256 != sum(good[initrd]) || m.asked(initrd+" bytes=") != 1 || m.asked("/bzImage-x86_64-linux") != 2+2 {
		t.Errorf("%+v after %q", img, m.log)
	}
	// The kernel had come in full: it is asked for what comes after its end.
	if m.asked(fmt.Sprintf("/bzImage-x86_64-linux bytes=%d-", len(x86Kernel()))) != 1 {
		t.Errorf("the kernel came again: %q", m.log)
	}
	if left := content(t, c); strings.Contains(left, partialPrefix) {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestStalledServer(t *testing.T) {
	good := release(t, "/", "x86_64", "one")
	release := make(chan struct{})
	m := &mirror{files: good, before: func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.HasPrefix(r.URL.Path, "/initrd") {
			return false
		}
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		<-release
		return true
	}}
	s := httptest.NewTLSServer(m)
	defer s.Close()
	defer close(release)
	c := catalogFor(t, s)
	c.http.stall, c.http.tries = 50*time.Millisecond, 2
	_, err := c.From(t.Context(), Request{Name: "a", From: s.URL}, nil)
	checkErr(t, err, "the server has sent nothing for 50ms (tried 2 times")
}

func TestDownloadRefuses(t *testing.T) {
	huge := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
		io.WriteString(w, "x")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/round/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
	})
	mux.HandleFunc("/open/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://mirror.example/secret.tar.gz?signature=abcdef", http.StatusFound)
	})
	mux.HandleFunc("/file/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	mux.HandleFunc("/huge/", huge)
	mux.HandleFunc("/endless/", func(w http.ResponseWriter, r *http.Request) {
		for chunk := bytes.Repeat([]byte("x"), 1<<16); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/forbidden/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) })
	mux.HandleFunc("/page/netboot-x86_64-linux.ipxe", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<!DOCTYPE html>") })
	mux.HandleFunc("/text.tar.gz", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<!DOCTYPE html>") })
	mux.HandleFunc("/page/bzImage-x86_64-linux", func(w http.ResponseWriter, r *http.Request) { w.Write(x86Kernel()) })
	mux.HandleFunc("/page/initrd-x86_64-linux", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "070701") })
	s := httptest.NewTLSServer(mux)
	defer s.Close()
	for from, want := range map[string]string{
		s.URL + "/round/a.tar.gz":                    "redirects on and on",
		s.URL + "/open/a.tar.gz":                     "redirects to http://mirror.example/secret.tar.gz, which anyone on the way can change",
		s.URL + "/file/a.tar.gz":                     `redirects to a URL of "file"`,
		s.URL + "/huge/a.tar.gz":                     "at most 17179869184 are taken",
		s.URL + "/endless/":                          "it has more than 1048576 bytes",
		s.URL + "/forbidden/a.iso":                   "403 Forbidden",
		s.URL + "/none/a.iso":                        "404 Not Found",
		s.URL + "/page/":                             "it has no kernel line",
		s.URL + "/text.tar.gz":                       "is it a kexec tarball",
		"https://user:secret@mirror.example/a.tar":   "download it yourself",
		"https://":                                   "names no server",
		"http://mirror.example/a.tar.gz?token=abcde": "use https, or give",
		"https://%zz":                                "no URL that can be read",
	} {
		c := catalogFor(t, s)
		_, err := c.From(t.Context(), Request{Name: "a", From: from}, nil)
		checkErr(t, err, want)
		checkErr(t, err, "add image a: ")
		for _, secret := range []string{"abcde", "secret@", tmpPrefix} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%v tells %s", err, secret)
			}
		}
		if left := content(t, c); left != "" {
			t.Errorf("%s: left behind:\n%s", from, left)
		}
	}
	other := catalogFor(t, s)
	other.http.client = http.DefaultClient // which does not know the certificate
	_, err := other.From(t.Context(), Request{Name: "a", From: s.URL + "/a.tar.gz"}, nil)
	checkErr(t, err, "certificate")
	if strings.Contains(err.Error(), "tried") {
		t.Errorf("tried again: %v", err)
	}
}
