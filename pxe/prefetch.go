package pxe

import (
	"context"
	"sync"
	"time"

	"provision/hosts"
	"provision/images"
)

// prefetcher has the images of machines that will ask read into the page cache,
// one at a time, beside the answering.
type prefetcher struct {
	mu   sync.Mutex
	ctx  context.Context // of Run; nil: nobody runs us, and nothing is read
	work sync.WaitGroup
	last map[string]time.Time // when the reading of an image began or ended, by its digests
	turn sync.Mutex           // of who reads
}

// So long an image that was read is taken to be in the page cache yet. A
// thousand machines that are switched on at once are one reading.
const warmFor = time.Minute

// run has what is read end with ctx.
func (w *prefetcher) run(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ctx = ctx
}

// prefetch begins to read an image, unless that is done or under way. It does not
// wait.
func (s *Server) prefetch(img images.Image) {
	key := img.Kernel.SHA256 + img.Initrd.SHA256
	w := &s.prefetcher
	w.mu.Lock()
	defer w.mu.Unlock()

	if at, read := w.last[key]; w.ctx == nil || read && s.Now().Sub(at) < warmFor {
		return
	}
	if w.last == nil {
		w.last = make(map[string]time.Time)
	}

	// A reading that takes longer than warmFor is not begun a second time.
	w.last[key] = s.Now().Add(time.Hour)
	ctx := w.ctx
	w.work.Go(func() {
		w.turn.Lock()
		defer w.turn.Unlock()

		began := time.Now()
		n, err := s.Images.Warm(ctx, img)
		if err != nil && ctx.Err() == nil { // who boots it is told why it cannot be had
			s.Log.Warn("the image is not in the page cache", "image", img.Name, "err", err)
		}

		s.Log.Debug("image read ahead", "image", img.Name, "bytes", n, "took", time.Since(began))
		w.mu.Lock()
		defer w.mu.Unlock()

		w.last[key] = s.Now()
	})
}

// prefetchEach reads the image of each host that is named and waits for its
// machine, until there are no more names.
func (s *Server) prefetchEach(changed <-chan string) error {
	for name := range changed {
		h, err := s.Hosts.Get(name)
		if err != nil || h.State != hosts.StateReady {
			continue // forgotten meanwhile, or past it
		}
		if img, err := s.Images.Get(h.Image); err == nil {
			s.prefetch(img)
		}
	}
	return nil
}
