package tftp

import (
	"io"
	"math/rand"
	"runtime"
	"sync"
	"testing"
	"time"
)

// crowd is n clients that all ask for the same file at once, each from a port of its own.
func crowd(t *testing.T, s *shelf, n int) (clients []*bootROM, stop func()) {
	t.Helper()
	addr, stop := s.serve(t, 1500)
	for range n {
		clients = append(clients, newROM(t, addr))
	}
	for _, f := range clients {
		f.ask(readRequest("file", "tsize", "0", "blksize", "1468"))
	}
	return clients, stop
}

// unanswered are the clients that get no answer within a second.
func unanswered(clients []*bootROM) (pending []*bootROM) {
	deadline := time.Now().Add(time.Second)
	for _, f := range clients {
		if f.within(max(time.Until(deadline), time.Millisecond)) == nil {
			pending = append(pending, f)
		}
	}
	return pending
}

// memory is how many bytes the process has in use.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// settled waits until there are no more goroutines than before.
func settled(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks)
		}
		time.Sleep(time.Millisecond)
	}
}

// A thousand machines are switched on at once: every one is served, in little memory, and nothing is left afterwards.
// Like firmware, they repeat a request that got no answer.
func TestThousandClients(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	before := memory()
	s := &shelf{files: map[string][]byte{"file": noise(20_000)}}
	clients, stop := crowd(t, s, 1000)

	repeats := 0
	for pending := unanswered(clients); len(pending) > 0; pending = unanswered(pending) {
		repeats += len(pending)
		t.Logf("%d clients repeat their requests", len(pending))
		for _, f := range pending {
			f.ask(readRequest("file", "tsize", "0", "blksize", "1468"))
		}
	}

	used := memory() - before
	t.Logf("1,000 transfers under way: %d goroutines, %.1f MB; %d requests were repeated",
		runtime.NumGoroutine()-goroutines, float64(used)/1e6, repeats)
	if used > 60e6 {
		t.Errorf("%d bytes in use", used)
	}

	var downloads sync.WaitGroup
	for _, f := range clients { // concurrently: by the turn of the last of a queue, its transfer would have ended
		downloads.Go(func() {
			f.ack(0)
			p := f.next()
			for p[1] == 6 { // the OACK once more: it took us a second to come here
				p = f.next()
			}
			f.download(io.Discard, p, 1468)
		})
	}
	downloads.Wait()
	for range clients {
		if !s.whole(t) {
			t.Error("not whole")
		}
	}
	stop()
	settled(t, goroutines)
}

// A thousand clients are switched off in the middle: their transfers end.
func TestVanishingClients(t *testing.T) {
	goroutines := runtime.NumGoroutine() + 2 // the server's own
	s := &shelf{files: map[string][]byte{"file": noise(20_000)}}
	addr, stop := s.serve(t, 1500)
	var clients []*bootROM
	for range 1000 {
		f := newROM(t, addr)
		f.ask(readRequest("file"))
		f.next()
		clients = append(clients, f)
	}
	for _, f := range clients { // not before all have a port
		f.conn.Close()
	}
	began := time.Now()
	for range 1000 {
		if s.whole(t) {
			t.Fatal("whole")
		}
	}
	t.Logf("the last transfer ended %v after its client", time.Since(began).Round(time.Millisecond))
	settled(t, goroutines)
	if !s.said("file ended early: no answer from the client after 512 bytes, 9.") {
		t.Errorf("%.200q", s.texts)
	}
	stop()
}

// A client that gets no slot gets the first that becomes free.
func TestWaiting(t *testing.T) {
	data := noise(3)
	s := &shelf{files: map[string][]byte{"file": data}}
	addr, _ := s.serve(t, 1500)
	var clients []*bootROM
	for range MaxTransfers {
		f := newROM(t, addr)
		f.ask(readRequest("file"))
		f.next()
		clients = append(clients, f)
	}
	late := newROM(t, addr)
	for range 3 {
		late.ask(readRequest("file"))
	}
	if p := late.within(300 * time.Millisecond); p != nil {
		t.Fatalf("a transfer more than %d: %q", MaxTransfers, p)
	}
	clients[17].ack(1)
	late.expect("\x00\x03\x00\x01" + string(data))
	late.ack(1)
	for _, f := range clients {
		f.ack(1)
	}
	for range MaxTransfers + 1 {
		if !s.whole(t) {
			t.Fatal("not whole")
		}
	}
}

// A client that asked long ago, and did not repeat its request, is not sent anything.
func TestGivesUpWaiting(t *testing.T) {
	d := newDispatcher(t.Context(), &Server{Transfers: 1})
	ended := false
	gone := &transfer{
		Request: Request{Name: "gone"},
		file:    fileOf(nil, 0),
		asked:   time.Now().Add(-requestPatience - time.Second),
	}
	gone.file.Done = func(bool) { ended = true }
	here := &transfer{Request: Request{Name: "here"}, file: fileOf(nil, 0), asked: time.Now()}
	for _, w := range []*transfer{gone, here} {
		d.duplicate(w, nil)
		d.waiting <- w
	}
	if got := d.next(); got != here || !ended || len(d.known) != 1 || len(d.slots) != 1 {
		t.Errorf("%s got the slot; ended %v, %d known, %d slots", got.Name, ended, len(d.known), len(d.slots))
	}
}

// When the server stops, it says so to its clients, and waits for none of them.
func TestStops(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	s := &shelf{open: func(string) (File, error) { return fileOf(rand.New(rand.NewSource(1)), 1<<40), nil }}
	clients, stop := crowd(t, s, MaxTransfers+100) // a hundred get no slot
	f := clients[0]
	f.options()
	deadline := time.Now().Add(10 * time.Second)
	for s.count() < len(clients) {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests came", s.count())
		}
		time.Sleep(time.Millisecond)
	}

	stopped := make(chan struct{})
	began := time.Now()
	go func() {
		stop()
		close(stopped)
	}()
	for block := uint16(0); ; block++ {
		f.ack(block)
		if p := f.next(); p[1] == 5 {
			if string(p) != "\x00\x05\x00\x00the server stops\x00" {
				t.Errorf("%q", p)
			}
			break
		}
	}
	<-stopped
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if len(s.ended) != s.opened {
		t.Errorf("%d of %d transfers ended", len(s.ended), s.opened)
	}
	settled(t, goroutines)
}
