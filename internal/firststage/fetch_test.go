package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A fault is what a server does wrong in answering one request.
type fault struct {
	status int  // answered instead of the file; -1: the connection is closed
	cut    int  // bytes after which the connection is cut
	flip   int  // this byte of the file is another
	whole  bool // the whole is sent, whatever part was asked for
	short  bool // the file has a byte less
}

const imageSize = 3 << 20

// serve starts a server of a file that commits a fault for each request, and
// then none any more; ranges are what it was asked for.
func serve(t *testing.T, data []byte, faults ...fault) (o order, ranges *[]string) {
	t.Helper()
	ranges = new([]string)
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var f fault
		mu.Lock()
		*ranges = append(*ranges, r.Header.Get("Range"))
		if len(faults) > 0 {
			f, faults = faults[0], faults[1:]
		}
		mu.Unlock()
		file := bytes.Clone(data)
		if f.short {
			file = file[1:]
		}
		if f.flip > 0 {
			file[f.flip] ^= 1
		}
		switch {
		case f.status < 0:
			panic(http.ErrAbortHandler)
		case f.status > 0:
			w.WriteHeader(f.status)
			return
		case f.whole:
			r.Header.Del("Range")
		}
		if f.cut > 0 {
			w = &cutter{w, f.cut}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		if f.cut > 0 {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	where, server, err := parseURL(s.URL + "/boot/token/initrd")
	if err != nil {
		t.Fatal(err)
	}
	return order{url: where, server: server, image: pin(data[:imageSize]), boot: pin(data[imageSize:])}, ranges
}

func pin(data []byte) pinned { return pinned{int64(len(data)), sha256.Sum256(data)} }

// A cutter passes on a number of bytes only.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(len(b), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// testFetcher is a fetcher that does not wait, with all that it says.
func testFetcher(t *testing.T, o order) (*fetcher, func() string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "console")
	port, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { port.Close() })
	f := newFetcher(o, &console{ports: []*os.File{port}}, new(net.Dialer).DialContext, func(context.Context, time.Duration) {})
	return f, func() string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func TestFetch(t *testing.T) {
	data := make([]byte, imageSize+100000)
	for i := range data {
		data[i] = byte(i * i >> 5)
	}
	for _, test := range []struct {
		name   string
		faults []fault
		ranges []string
		says   []string
		err    error
	}{
		{"at once", nil, []string{""}, []string{"MB of 3.2 MB"}, nil},
		{"cut", []fault{{cut: 1000000}, {cut: 500000}}, []string{"", "bytes=1000000-", "bytes=1500000-"},
			[]string{"broke off at 1.0 MB: the connection was closed", "broke off at 1.5 MB"}, nil},
		{"cut within the boot's part", []fault{{cut: imageSize + 85536}}, []string{"", "bytes=3231264-"}, nil, nil},
		{"no ranges", []fault{{cut: 1000000}, {whole: true}}, []string{"", "bytes=1000000-"}, nil, nil},
		{"no ranges, and cut again", []fault{{cut: 1000000}, {whole: true, cut: 500000}}, []string{"", "bytes=1000000-", "bytes=1000000-"}, nil, nil},
		{"closed", []fault{{status: -1}}, []string{"", ""}, []string{"closed the connection without an answer", "this boot is over"}, nil},
		{"gone", []fault{{status: 404}}, []string{"", ""}, []string{`"404 Not Found": this boot is over`, "restart the machine"}, nil},
		{"trouble", []fault{{status: 500}, {status: 302}}, []string{"", "", ""}, []string{`"500 Internal Server Error"`, `"302 Found"`}, nil},
		{"another image", []fault{{flip: 5}}, []string{""}, nil, errDiffers},
		{"another boot", []fault{{flip: imageSize}}, []string{""}, nil, errDiffers},
		{"another size", []fault{{short: true}}, []string{""}, nil, errDiffers},
		{"another size after a cut", []fault{{cut: 1000000}, {short: true}}, []string{"", "bytes=1000000-"}, nil, errDiffers},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, ranges := serve(t, data, test.faults...)
			f, said := testFetcher(t, o)
			var got bytes.Buffer
			err := f.run(t.Context(), &got)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v; said %s", err, test.err, said())
			}
			if err == nil && !bytes.Equal(got.Bytes(), data) {
				t.Error("what came is not what was sent")
			}
			if !slices.Equal(*ranges, test.ranges) {
				t.Errorf("asked for %q, want %q", *ranges, test.ranges)
			}
			for _, text := range test.says {
				if !strings.Contains(said(), text) {
					t.Errorf("it did not say %q, but %s", text, said())
				}
			}
		})
	}
}

// TestFetchServerBack: the server's port is closed for a while, in the middle.
func TestFetchServerBack(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), imageSize/16+10)
	o, ranges := serve(t, data, fault{cut: 1000000})
	f, said := testFetcher(t, o)
	var down atomic.Int32
	dial := f.client.Transport.(*http.Transport).DialContext
	f.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if n := down.Add(1); n > 1 && n < 6 {
			addr = closedPort(t)
		}
		return dial(ctx, network, addr)
	}
	if err := f.run(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said(), "connection refused: is provision running?") || strings.Count(said(), "refused") != 1 {
		t.Errorf("it said %s", said())
	}
	if want := []string{"", "bytes=1000000-"}; !slices.Equal(*ranges, want) {
		t.Errorf("asked for %q, want %q", *ranges, want)
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestFetchOver: once the server has said for minutes that the boot is over, it is.
func TestFetchOver(t *testing.T) {
	o, _ := serve(t, make([]byte, imageSize+10), fault{status: 404}, fault{status: 404}, fault{status: -1})
	f, _ := testFetcher(t, o)
	f.wait = func(context.Context, time.Duration) {
		if !f.overSince.IsZero() {
			f.overSince = f.overSince.Add(-2 * time.Minute)
		}
	}
	f.overSince = time.Now().Add(-2 * time.Minute)
	if err := f.run(t.Context(), io.Discard); !errors.Is(err, errRestart) {
		t.Errorf("error %v, want %v", err, errRestart)
	}
}

// TestFetchCancel: it ends with its context, wherever it is.
func TestFetchCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := order{url: &url.URL{Scheme: "http", Host: closedPort(t)}, image: pinned{size: 1}}
	f, _ := testFetcher(t, o)
	f.wait = func(context.Context, time.Duration) { cancel() }
	if err := f.run(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
