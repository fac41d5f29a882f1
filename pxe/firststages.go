package pxe

import (
	"context"
	"sync"
	"time"

	"provision/images"
)

// firstStages are the kernels and first stages that are made for boards, each for its
// image, beside the answering of machines.
type firstStages struct {
	mu   sync.Mutex
	ctx  context.Context // of Run
	work sync.WaitGroup
	all  map[string]*builtStage // by the digests of kernel and initrd
}

// builtStage is one: what a board loads in place of the image's own.
type builtStage struct {
	done          chan struct{} // closed when the rest is there
	kernel, first images.File
	err           error
	at            time.Time
}

const (
	// A board asks again after 4 seconds or more. What takes longer is ready by then.
	packPatience = 2 * time.Second
	// So long what is amiss with an image is not looked for again.
	packRetry = 10 * time.Second
)

// run has what is made end with ctx.
func (p *firstStages) run(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
}

// firstStage is what is made for an image; nil while that takes longer.
func (s *Server) firstStage(img images.Image) *builtStage {
	key := img.Kernel.SHA256 + img.Initrd.SHA256
	p := &s.firstStages
	p.mu.Lock()
	made := p.all[key]
	if made != nil {
		select {
		case <-made.done:
			if made.err != nil && s.Now().Sub(made.at) > packRetry || made.err == nil && s.gone(made) {
				made = nil
			}
		default:
		}
	}

	if made == nil {
		if p.all == nil {
			p.all = make(map[string]*builtStage)
		}
		if p.ctx == nil { // nobody runs us
			p.ctx = context.Background()
		}
		made = &builtStage{done: make(chan struct{})}
		p.all[key] = made
		p.work.Go(func() { s.make(p.ctx, img, made) })
	}

	p.mu.Unlock()
	select {
	case <-made.done:
		return made
	case <-time.After(packPatience):
		return nil
	}
}

// gone reports whether what was made is not in the catalog any more, because the
// image was removed or added anew.
func (s *Server) gone(made *builtStage) bool {
	for _, file := range []images.File{made.kernel, made.first} {
		f, err := s.Images.OpenFile(file)
		if err != nil {
			return true
		}
		f.Close()
	}
	return false
}

func (s *Server) make(ctx context.Context, img images.Image, made *builtStage) {
	defer close(made.done)
	if made.kernel, made.err = s.Images.PackedKernel(ctx, img); made.err == nil {
		made.first, made.err = s.Images.FirstStage(ctx, img)
	}
	made.at = s.Now()
}
