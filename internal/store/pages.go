package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
)

// A bbolt file is mapped into memory and believed: a page number or a length that was damaged ends the process, or
// has it go round for ever, and bbolt's own Check with it. So the file is read here first, by the layout of bbolt's
// internal/common: pages of one size, each with its number, its kind, how many elements it has and how many pages
// follow that belong to it. Pages 0 and 1 are the last two transactions, with checksums.

const (
	pageHead     = 16
	elementSize  = 16
	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10
	boltMagic    = 0xED0CDAED
	noFreelist   = ^uint64(0)
	// maxDepth bounds the height of a tree; with two keys a page, a higher one would not fit on any disk.
	maxDepth = 60
)

// transaction is what page 0 or 1 says.
type transaction struct {
	pageSize, root, freelist, pages, id uint64
}

// pageFile is a file that is being checked.
type pageFile struct {
	io.ReaderAt
	transaction
	used  []bool   // by page
	spare [][]byte // memory for single pages
	visit func(bucket string, key, value []byte)
}

// walkPages checks the structure of a bbolt file of this many bytes and calls visit for each key that is not a
// bucket's; key and value are valid until it returns. reverted means that of the last two transactions one is damaged,
// maybe the last one.
func walkPages(r io.ReaderAt, size int64, visit func(bucket string, key, value []byte)) (reverted bool, err error) {
	tx, reverted, err := lastTransaction(r, size)
	if err != nil {
		return reverted, err
	}
	if tx.pages > uint64(size)/tx.pageSize {
		return reverted, fmt.Errorf("it is cut short: it has %d bytes, and should have %d", size, tx.pages*tx.pageSize)
	}
	f := &pageFile{
		ReaderAt:    r,
		transaction: tx,
		used:        make([]bool, tx.pages),
		visit:       visit,
	}
	if err := f.walk(tx.root, "", limits{}, 0); err != nil {
		return reverted, err
	}
	return reverted, f.walkFree()
}

// lastTransaction finds the size of the pages as bbolt does: by page 0, else by page 1.
func lastTransaction(r io.ReaderAt, size int64) (tx transaction, reverted bool, err error) {
	first, firstOK := readTransaction(r, 0)
	for at := int64(1024); at <= 1024<<14 && at < size; at *= 2 {
		second, ok := readTransaction(r, at)
		switch {
		case !ok || second.pageSize != uint64(at):
		case !firstOK || second.id > first.id && second.pageSize == first.pageSize:
			return second, !firstOK, nil
		case second.pageSize == first.pageSize:
			return first, false, nil
		}
	}

	if !firstOK {
		return tx, false, fmt.Errorf("pages 0 and 1, which say where everything is, are both damaged")
	}
	return first, true, nil
}

func readTransaction(r io.ReaderAt, at int64) (tx transaction, ok bool) {
	page := make([]byte, pageHead+64)
	if n, _ := r.ReadAt(page, at); n < len(page) {
		return tx, false
	}
	if n := binary.LittleEndian.Uint64(page); n > 1 || binary.LittleEndian.Uint16(page[8:]) != metaPage {
		return tx, false
	}
	data := page[pageHead:]
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(data[at:]) }
	sum := fnv.New64a()
	sum.Write(data[:56])
	tx = transaction{
		pageSize: uint64(binary.LittleEndian.Uint32(data[8:])),
		root:     word(16),
		freelist: word(32),
		pages:    word(40),
		id:       word(48),
	}
	ok = binary.LittleEndian.Uint32(data) == boltMagic && binary.LittleEndian.Uint32(data[4:]) == 2 &&
		word(56) == sum.Sum64() && tx.pageSize >= 1024 && bits.OnesCount64(tx.pageSize) == 1
	return tx, ok
}

// boltPage is a page with those that belong to it.
type boltPage struct {
	id          uint64
	kind, count uint16
	data        []byte
}

// read reads a page, which nothing else may use.
func (f *pageFile) read(id uint64) (p boltPage, err error) {
	if id < 2 || id >= f.pages {
		return p, fmt.Errorf("there is no page %d", id)
	}
	var data []byte
	if last := len(f.spare) - 1; last >= 0 {
		data, f.spare = f.spare[last], f.spare[:last]
	} else {
		data = make([]byte, f.pageSize)
	}

	if _, err := f.ReadAt(data, int64(id*f.pageSize)); err != nil {
		return p, err
	}

	p = boltPage{
		id:    binary.LittleEndian.Uint64(data),
		kind:  binary.LittleEndian.Uint16(data[8:]),
		count: binary.LittleEndian.Uint16(data[10:]),
		data:  data,
	}
	more := uint64(binary.LittleEndian.Uint32(data[12:]))
	if p.id != id || id+more >= f.pages {
		return p, fmt.Errorf("page %d is damaged", id)
	}
	for i := id; i <= id+more; i++ {
		if err := f.use(i); err != nil {
			return p, err
		}
	}

	if more > 0 {
		f.free(p)
		p.data = make([]byte, (more+1)*f.pageSize)
		_, err = f.ReadAt(p.data, int64(id*f.pageSize))
	}

	return p, err
}

// free gives back the memory of a page that is done with.
func (f *pageFile) free(p boltPage) {
	if uint64(len(p.data)) == f.pageSize {
		f.spare = append(f.spare, p.data)
	}
}

func (f *pageFile) use(id uint64) error {
	if f.used[id] {
		return fmt.Errorf("page %d is used twice", id)
	}
	f.used[id] = true
	return nil
}

// element returns the head of an element, the key that it leads to, and what follows the key.
func (p boltPage) element(i int) (head, key, after []byte, err error) {
	at := pageHead + i*elementSize
	if at+elementSize > len(p.data) {
		return nil, nil, nil, fmt.Errorf("page %d has fewer elements than it says", p.id)
	}
	head = p.data[at : at+elementSize]
	where := head // of a branch: position, length of the key, page
	if p.kind == leafPage {
		where = head[4:] // kind, position, length of the key, length of the value
	}
	from := uint64(at) + uint64(binary.LittleEndian.Uint32(where))
	to := from + uint64(binary.LittleEndian.Uint32(where[4:]))
	if to > uint64(len(p.data)) {
		return nil, nil, nil, fmt.Errorf("page %d has a key that does not lie in it", p.id)
	}
	return head, p.data[from:to], p.data[to:], nil
}

// limits are the keys that a page may have: from low on, and before high; nil: any.
type limits struct{ low, high []byte }

func (l limits) hold(key []byte) bool {
	return len(key) > 0 && bytes.Compare(l.low, key) <= 0 && (l.high == nil || bytes.Compare(key, l.high) < 0)
}

// walk checks a page of a bucket and all that is below it.
func (f *pageFile) walk(id uint64, bucket string, keys limits, depth int) error {
	p, err := f.read(id)
	defer f.free(p)
	switch {
	case err != nil:
		return err
	case depth > maxDepth:
		return fmt.Errorf("page %d is too deep in its tree", id)
	case p.kind == leafPage:
		return f.walkLeaf(p, bucket, keys, depth)
	case p.kind == branchPage && p.count > 0:
		return f.walkBranch(p, bucket, keys, depth)
	}

	return fmt.Errorf("page %d is not what it is used as", id)
}

func (f *pageFile) walkBranch(p boltPage, bucket string, keys limits, depth int) error {
	for i := range int(p.count) {
		head, key, _, err := p.element(i)
		if err != nil {
			return err
		}

		below := limits{key, keys.high}
		if i+1 < int(p.count) {
			if _, below.high, _, err = p.element(i + 1); err != nil {
				return err
			}
		}

		if !keys.hold(key) || !(limits{high: below.high}).hold(key) {
			return fmt.Errorf("page %d has keys out of order", p.id)
		}
		if err := f.walk(binary.LittleEndian.Uint64(head[8:]), bucket, below, depth+1); err != nil {
			return err
		}
	}

	return nil
}

func (f *pageFile) walkLeaf(p boltPage, bucket string, keys limits, depth int) error {
	var before []byte
	for i := range int(p.count) {
		head, key, after, err := p.element(i)
		if err != nil {
			return err
		}

		size := uint64(binary.LittleEndian.Uint32(head[12:]))
		if size > uint64(len(after)) {
			return fmt.Errorf("page %d has a value that does not lie in it", p.id)
		}
		if !keys.hold(key) || bytes.Compare(before, key) >= 0 {
			return fmt.Errorf("page %d has keys out of order", p.id)
		}
		before = key
		value := after[:size]
		switch kind := binary.LittleEndian.Uint32(head); {
		case kind == 0:
			f.visit(bucket, key, value)
		case kind == 1 && bucket == "" && len(value) >= pageHead:
			err = f.walkBucket(p.id, string(key), value, depth)
		default:
			err = fmt.Errorf("page %d has a value of no kind that there is", p.id)
		}
		if err != nil {
			return err
		}
	}

	return nil
}

// walkBucket checks a bucket: its value names its first page, or 0 if a small page follows in the value itself.
func (f *pageFile) walkBucket(within uint64, name string, value []byte, depth int) error {
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return f.walk(root, name, limits{}, depth+1)
	}
	inline := value[pageHead:]
	if len(inline) < pageHead || binary.LittleEndian.Uint16(inline[8:]) != leafPage {
		return fmt.Errorf("page %d has a damaged bucket", within)
	}
	return f.walkLeaf(boltPage{within, leafPage, binary.LittleEndian.Uint16(inline[10:]), inline}, name, limits{}, depth+1)
}

// walkFree checks the list of free pages: with it, each page is used exactly once.
func (f *pageFile) walkFree() error {
	if f.freelist == noFreelist {
		return nil // bbolt finds them itself then
	}
	p, err := f.read(f.freelist)
	if err != nil {
		return err
	}

	list, n := p.data[pageHead:], uint64(p.count)
	if n == 0xFFFF { // the number itself does not fit
		n, list = binary.LittleEndian.Uint64(list), list[8:]
	}
	if p.kind != freelistPage || n > uint64(len(list)/8) {
		return fmt.Errorf("page %d is not a whole list of free pages", p.id)
	}
	for i := range n {
		id := binary.LittleEndian.Uint64(list[i*8:])
		if id < 2 || id >= f.pages {
			return fmt.Errorf("page %d is free, and there is no such page", id)
		}
		if err := f.use(id); err != nil {
			return fmt.Errorf("%w: it is free as well", err)
		}
	}

	for id := uint64(2); id < f.pages; id++ {
		if !f.used[id] {
			return fmt.Errorf("page %d is neither used nor free", id)
		}
	}

	return nil
}
