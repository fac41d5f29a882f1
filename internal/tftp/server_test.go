package tftp

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noise is a file in which no block is like another.
func noise(size int) []byte {
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(data)
	return data
}

func TestParseTFTP(t *testing.T) {
	for in, want := range map[string]Request{
		"\x00\x01name\x00octet\x00":                                           {Octet: true, Name: "name"},
		"\x00\x01name\x00OCTET\x00TSIZE\x000\x00BlkSize\x001468\x00":          {Octet: true, Name: "name", Tsize: true, Blksize: 1468},
		"\x00\x01//a//b\x00octet\x00windowsize\x004\x00timeout\x000\x00":      {Octet: true, Name: "a/b", Window: 4},
		"\x00\x01a\x00octet\x00windowsize\x0065535\x00":                       {Octet: true, Name: "a", Window: maxWindow},
		"\x00\x01a\x00octet\x00WindowSize\x001\x00":                           {Octet: true, Name: "a"}, // lock-step
		"\x00\x01a\x00octet\x00windowsize\x0065536\x00":                       {Octet: true, Name: "a"},
		"\x00\x01../a\x00octet\x00blksize\x007\x00tsize\x00-1\x00":            {Octet: true, Name: "../a"},
		"\x00\x01a\x00octet\x00blksize\x00x\x00tsize\x00\x00tsize\x00":        {Octet: true, Name: "a"},
		"\x00\x01a\x00octet\x00blksize\x0065465\x00blksize\x0065464":          {Octet: true, Name: "a"},
		"\x00\x01a\x00octet\x00blksize\x0099999999999999999999\x00\x00":       {Octet: true, Name: "a"},
		"\x00\x01name\x00netascii\x00":                                        {Name: "name"},
		"\x00\x02name\x00octet\x00":                                           {Write: true, Octet: true, Name: "name"},
		"\x00\x01name\x00octet":                                               {},
		"\x00\x01name":                                                        {},
		"\x00\x01":                                                            {},
		"":                                                                    {},
		"\x00\x04\x00\x01":                                                    {},
		"\x01\x01name\x00octet\x00":                                           {},
		string(readRequest(string(bytes.Repeat([]byte("a"), 512)), "tsize0")): {},
	} {
		got, ok := ParseRequest([]byte(in))
		if !ok {
			got = Request{}
		}
		if got != want || ok != (want != Request{}) {
			t.Errorf("%q: %+v, %v", in, got, ok)
		}
	}
}

// Every kind of client gets every size of file, with those of the options it asked for that make sense.
func TestOptions(t *testing.T) {
	s := &shelf{files: make(map[string][]byte)}
	sizes := []int{0, 1, 511, 512, 513, 8968, 100_000}
	// Each client has names of its own: where two have the same port within lingerTime, the second would be taken for
	// the first.
	name := func(client, size int) string { return fmt.Sprintf("%d/%d", client, size) }
	for _, n := range sizes {
		for client := range 16 {
			s.files[name(client, n)] = noise(n)
		}
	}

	ethernet, _ := s.serve(t, 1500)
	jumbo := &shelf{files: s.files}
	large, _ := jumbo.serve(t, 9000)

	for client, c := range []struct {
		name    string
		ask     []string
		mtu     int
		blksize int
		tsize   bool
	}{
		{"none", nil, 1500, 512, false},
		{"Pi 3 firmware", []string{"tsize", "0"}, 1500, 512, true},
		{"Pi 4", []string{"tsize", "0", "blksize", "1024"}, 1500, 1024, true},
		{"EDK2", []string{"tsize", "0", "blksize", "1468", "windowsize", "4"}, 1500, 1468, true},
		{"U-Boot", []string{"timeout", "5", "blksize", "1468"}, 1500, 1468, false},
		{"more than the link takes", []string{"blksize", "65464"}, 1500, 1468, false},
		{"jumbo frames", []string{"blksize", "65464", "tsize", "0"}, 9000, 8968, true},
		{"tiny", []string{"blksize", "8"}, 1500, 8, false},
		{"less than the link takes", []string{"BLKSIZE", "1432", "TSIZE", "0"}, 9000, 1432, true},
		{"nothings", []string{"blksize", "0", "timeout", "0", "windowsize", "0"}, 1500, 512, false},
		{"nonsense", []string{"blksize", "-1", "tsize", "x", "", "", "windowsize"}, 1500, 512, false},
		{"a size of the client's", []string{"tsize", "7"}, 1500, 512, true},
	} {
		for _, size := range sizes {
			t.Run(fmt.Sprintf("%s/%d", c.name, size), func(t *testing.T) {
				addr := ethernet
				if c.mtu == 9000 {
					addr = large
				}
				f := newROM(t, addr)
				f.ask(readRequest(name(client, size), c.ask...))

				want := make(map[string]string)
				if c.name == "EDK2" {
					f.window = 4
					want["windowsize"] = "4"
				}
				if c.blksize != 512 {
					want["blksize"] = fmt.Sprint(c.blksize)
				}
				if c.tsize {
					want["tsize"] = fmt.Sprint(size)
				}
				if len(want) > 0 {
					if got := f.options(); !maps.Equal(got, want) {
						t.Fatalf("options %v, want %v", got, want)
					}
					f.ack(0)
				}

				var got bytes.Buffer
				f.download(&got, f.next(), c.blksize)
				if !bytes.Equal(got.Bytes(), s.files[name(client, size)]) {
					t.Error("not the file")
				}
			})
		}
	}
	s.whole(t)
	if !s.said("sent 4/100000 whole: 100000 bytes, blksize 1468") {
		t.Errorf("the outcome was not observed: %q", s.texts)
	}
}

// A client that only asks for the size answers the OACK with an ERROR, and then sends another request, sometimes from
// the same port. That ERROR must not be answered: the client would take the answer for that to its second request.
func TestSizeProbe(t *testing.T) {
	s := &shelf{files: map[string][]byte{"file": noise(1000)}}
	addr, _ := s.serve(t, 1500)
	for range 100 {
		f := newROM(t, addr)
		for range 3 {
			f.ask(readRequest("file", "tsize", "0"))
			if got := f.options(); got["tsize"] != "1000" {
				t.Fatal(got)
			}
			f.quit()
		}
		f.ask(readRequest("file", "tsize", "0", "blksize", "1468"))
		f.options()
		f.ack(0)
		f.download(io.Discard, f.next(), 1468)
	}

	whole := 0
	for range 400 {
		if s.whole(t) {
			whole++
		}
	}
	if whole != 100 || !s.said("told the size of file: 1000 bytes") {
		t.Errorf("%d whole; %q", whole, s.texts)
	}
}

// A packet is repeated after a second, not sooner, and never for a duplicate ACK. No more of the file is read than
// readAhead.
func TestRepeats(t *testing.T) {
	var read atomic.Int64
	content := readFunc(func(p []byte) (int, error) {
		read.Add(int64(len(p)))
		return len(p), nil
	})
	s := &shelf{open: func(string) (File, error) { return fileOf(content, 10_000), nil }}
	addr, _ := s.serve(t, 1500)
	f := newROM(t, addr)
	f.ask(readRequest("file", "blksize", "1024"))
	f.options()
	for block := uint16(0); block < 10; block++ {
		for range 3 {
			f.ack(block)
		}
		p := f.next()
		if p[1] != 3 || p[3] != byte(block+1) {
			t.Fatalf("after ACK %d: %q", block, p[:4])
		}
		if block == 4 {
			if n := read.Load(); n > readAhead {
				t.Errorf("%d bytes read when block 5 came", n)
			}
			began := time.Now()
			first := bytes.Clone(p)
			if repeated := f.next(); !bytes.Equal(first, repeated) {
				t.Errorf("%q is not block 5", repeated[:4])
			}
			if took := time.Since(began); took < 990*time.Millisecond || took > 3*time.Second {
				t.Errorf("block 5 repeated after %v", took)
			}
		}
	}
	f.ack(10)
	if !s.whole(t) {
		t.Error("not whole")
	}
}

func TestDuplicateRequests(t *testing.T) {
	s := &shelf{files: map[string][]byte{"file": noise(600), "other": noise(3)}}
	addr, _ := s.serve(t, 1500)
	f := newROM(t, addr)
	for range 5 {
		f.ask(readRequest("file"))
	}
	first := bytes.Clone(f.next())
	tid := f.tid

	f.ask(readRequest("file"))
	began := time.Now()
	repeated := f.next()
	if f.tid != tid || !bytes.Equal(first, repeated) || time.Since(began) < 900*time.Millisecond {
		t.Errorf("a second transfer: %q from %v", repeated[:4], f.tid)
	}
	f.ack(1)
	f.next()
	f.ack(2)
	if !s.whole(t) {
		t.Fatal("not whole")
	}

	// The client has the whole file. The old request arrives once more, and then one for another file, which is the
	// first to be answered.
	over := time.Now()
	f.ask(readRequest("file"))
	f.ask(readRequest("other"))
	f.download(io.Discard, f.next(), 512)

	// A client that goes on asking is served, but not at once.
	f.ask(readRequest("file"))
	for f.within(10*time.Millisecond) == nil {
		f.ask(readRequest("file"))
	}
	if took := time.Since(over); took < lingerTime {
		t.Errorf("served again after %v", took)
	}
	f.quit()
}

// In a file of more than 65535 blocks, the numbers begin again at 0.
func TestBlockNumbersRollOver(t *testing.T) {
	const size = 512*65537 + 100
	s := &shelf{open: func(string) (File, error) {
		return fileOf(rand.New(rand.NewSource(1)), size), nil
	}}
	addr, _ := s.serve(t, 1500)
	f := newROM(t, addr)
	f.ask(readRequest("file"))
	got := sha256.New()
	f.download(got, f.next(), 512)

	want := sha256.New()
	if _, err := io.CopyN(want, rand.New(rand.NewSource(1)), size); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("not the file")
	}
}

func TestRefusals(t *testing.T) {
	s := &shelf{files: map[string][]byte{"dir/file": noise(3)}}
	addr, _ := s.serve(t, 1500)
	for in, want := range map[string]string{
		"\x00\x01missing\x00octet\x00tsize\x000\x00": "\x00\x05\x00\x01file not found\x00",
		"\x00\x01dir/file\x00netascii\x00":           "\x00\x05\x00\x00only octet mode is served\x00",
		"\x00\x01dir/file\x00mail\x00":               "\x00\x05\x00\x00only octet mode is served\x00",
		"\x00\x02dir/file\x00octet\x00":              "\x00\x05\x00\x02files can only be read\x00",
	} {
		f := newROM(t, addr)
		f.ask([]byte(in))
		f.expect(want)
	}

	// Strangers learn nothing: the first answer is for the request that comes after all of theirs.
	f := newROM(t, addr)
	for _, p := range []string{
		"\x00\x01x\x00octet\x00",
		"\x00\x01x\x00netascii\x00",
		"\x00\x02x\x00octet\x00",
		"\x00\x01../dir/file\x00octet\x00",
		"\x00\x01dir/../dir/file\x00octet\x00",
		"\x00\x01dir/./file\x00octet\x00",
		"\x00\x01dir\\file\x00octet\x00",
		"\x00\x01DIR/file\x00octet\x00",
		"\x00\x04\x00\x00",
		"\x00\x03\x00\x01x",
		"\x00\x05\x00\x00x\x00",
		"\x00",
		"",
		"\x00\x01dir/file",
	} {
		f.ask([]byte(p))
	}
	for _, p := range capturedRequests(t) {
		f.ask(p)
	}
	f.ask(readRequest("///dir//file"))
	f.expect("\x00\x03\x00\x01" + string(s.files["dir/file"]))
	f.ack(1)
}

// An error of a file is logged. The client is told that there is one, and not which.
func TestUnreadable(t *testing.T) {
	s := &shelf{open: func(string) (File, error) { return fileOf(bytes.NewReader(noise(700)), 1024), nil }}
	addr, _ := s.serve(t, 1500)
	f := newROM(t, addr)
	f.ask(readRequest("file"))
	f.next()
	f.ack(1)
	f.expect("\x00\x05\x00\x00the server cannot read the file\x00")
	if s.whole(t) {
		t.Error("whole")
	}
	for !s.said("file ended early: the server cannot read the file; after 700 bytes") { // the log was written before
		time.Sleep(time.Millisecond)
	}
	if !bytes.Contains(s.log.Bytes(), []byte("unexpected EOF")) {
		t.Errorf("log: %s", &s.log)
	}
	s.log.Reset()
}

// A transfer that gets no socket frees its slot.
func TestWithoutSockets(t *testing.T) {
	s := &shelf{files: map[string][]byte{"file": noise(3)}}
	addr, _ := s.serve(t, 1500)
	f := newROM(t, addr)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}

	for range MaxTransfers + 1 {
		f.ask(readRequest("file"))
		if s.whole(t) {
			t.Fatal("sent without a socket")
		}
	}

	restore()
	f.ask(readRequest("file"))
	f.expect("\x00\x03\x00\x01" + string(s.files["file"]))
	f.ack(1)
	if !s.whole(t) || !bytes.Contains(s.log.Bytes(), []byte("too many open files")) {
		t.Errorf("log: %s", &s.log)
	}
	s.log.Reset()
}

// TestUnresolved: a client whose MAC is not known yet need not repeat its request, and one whose MAC cannot be found
// out gets no answer.
func TestUnresolved(t *testing.T) {
	known := make(chan struct{})
	s := &shelf{
		open: func(name string) (File, error) {
			select {
			case <-known:
				if name == "file" {
					return fileOf(strings.NewReader("abc"), 3), nil
				}
			default:
			}
			return File{}, ErrUnresolved
		},
		resolve: sync.OnceFunc(func() { close(known) }),
	}
	addr, stop := s.serve(t, 1500)
	f := newROM(t, addr)
	f.ask(readRequest("file"))
	f.expect("\x00\x03\x00\x01abc")
	f.ack(1)
	if !s.whole(t) {
		t.Error("not whole")
	}

	f.ask(readRequest("another"))
	stop()
	if p := f.within(time.Millisecond); p != nil {
		t.Errorf("a client without a MAC got %q", p)
	}
}
