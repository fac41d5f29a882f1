package tftp

import (
	"errors"
	"net/netip"
	"os"
	"time"
)

const (
	// MaxTransfers bounds the transfers at one time, and the requests that wait for one to end. Each request keeps a
	// socket busy for some seconds, whatever source address it came from.
	MaxTransfers = 1024

	// maxShare bounds the transfers and the waiting requests of one client, and those of one group. Firmware has one
	// transfer at a time, and may not end the one before.
	maxShare = 16

	// maxResolving bounds the requests that wait for Server.Resolve at one time, each with a socket.
	maxResolving = 64

	// maxWindow bounds the blocks of a window, and with it the memory of a transfer. EDK2 asks for 4.
	maxWindow = 16

	// maxTries is how often a packet is sent before its client is given up.
	maxTries = 9

	// readAhead is how many bytes of a file are read at a time: a system call for each block would be a quarter of
	// all system calls.
	readAhead = 16 << 10

	// requestPatience is how long a request waits for a transfer to end, unless its client repeats it. Firmware repeats
	// a request after 1 to 5 seconds, and gives up after 15 or more.
	requestPatience = 10 * time.Second

	// lingerTime is how long after a whole transfer another request from the same port for the same file counts as a
	// duplicate that the network delivered late. Firmware that does mean to ask again does so after a second or more.
	lingerTime = time.Second / 4
)

// Sizes of blocks, in bytes (RFC 1350, RFC 2348).
const (
	minBlksize     = 8
	defaultBlksize = 512
	maxBlksize     = 65464

	// headerBytes is what a frame holds beside a block's data: the headers of IPv4, UDP and TFTP.
	headerBytes = 20 + 8 + 4
)

// sharer is what transfers are counted for: a client, or a group.
type sharer struct {
	client netip.Addr
	group  string
}

// sharers are all that a transfer is counted for.
func (d *dispatcher) sharers(t *transfer) []sharer {
	all := []sharer{{client: t.client.Addr()}}
	if d.Group == nil {
		return all
	}
	if group := d.Group(t.Name); group != "" {
		all = append(all, sharer{group: group})
	}
	return all
}

// acquireShare counts a transfer for its sharers. It returns false if one of them has its share already.
func (d *dispatcher) acquireShare(t *transfer) bool {
	sharers := d.sharers(t)

	d.mu.Lock()
	defer d.mu.Unlock()
	for _, by := range sharers {
		if d.counts[by] >= maxShare {
			return false
		}
	}

	for _, by := range sharers {
		d.counts[by]++
	}
	t.sharers = sharers
	return true
}

// releaseShare ends what acquireShare began. It may be called more than once. The caller holds d.mu.
func (d *dispatcher) releaseShare(t *transfer) {
	for _, by := range t.sharers {
		d.counts[by]--
		if d.counts[by] == 0 {
			delete(d.counts, by)
		}
	}
	t.sharers = nil
}

// blksizeFor is the largest block for a client, in bytes: what fits into one frame, and what arrived, as far as that
// is known.
func (d *dispatcher) blksizeFor(client netip.Addr) int {
	limit := min(max(d.MTU()-headerBytes, defaultBlksize), maxBlksize)
	if d.MaxBlksize != 0 {
		limit = min(limit, d.MaxBlksize)
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if reduced, ok := d.reduced[client]; ok {
		limit = min(limit, reduced)
	}
	return limit
}

// reduceBlksize halves the blocks of a client that acknowledged none of the first ones of a transfer: some network on
// the way does not carry blocks so large, and does not report it. It returns whether it did.
func (d *dispatcher) reduceBlksize(t *transfer, err error) bool {
	onlyFirst := t.sent > 0 && t.sent <= t.blockBytes()*int64(max(1, t.Window))
	if !onlyFirst || !errors.Is(err, os.ErrDeadlineExceeded) || t.blockBytes() <= defaultBlksize {
		return false
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reduced) >= MaxTransfers {
		clear(d.reduced)
	}
	d.reduced[t.client.Addr()] = int(max(defaultBlksize, t.blockBytes()/2))
	return true
}
