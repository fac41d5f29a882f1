// Package cache is a nix binary cache of what is being installed: to each machine exactly the store paths of its own
// install, under a token, signed with a key made for that install.
//
// Nothing is packed beforehand: a NAR is streamed out of the store as it is asked for. What arrives is authentic
// without trust in the network, for the machine is told the public key over its pinned SSH connection. It is not
// secret: nothing in a nix store should be.
//
// The protocol is nix's own (nix.dev/manual/nix, "HTTP Binary Cache Store"): nix-cache-info, HASH.narinfo,
// nar/HASH.nar, and nar/HASH.nar.zst over a slow network.
package cache

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// Prefix is where a [Cache] is to be served.
const Prefix = "/cache/"

// Cache is an [http.Handler] for the shares that are open.
type Cache struct {
	mu     sync.RWMutex
	shares map[string]*Share // by token
}

// Path is a store path, as `nix path-info --json` tells of it.
type Path struct {
	Path       string   `json:"path"`
	NarHash    string   `json:"narHash"` // SHA-256, in any of nix's forms
	NarSize    int64    `json:"narSize"` // bytes
	References []string `json:"references"`
	Signatures []string `json:"signatures"`
	CA         string   `json:"ca"`
}

// ParsePaths reads what `nix path-info --json` prints: a list before 2.19, and since then an object by path.
func ParsePaths(data []byte) ([]Path, error) {
	var list []Path
	if json.Unmarshal(data, &list) == nil {
		return list, nil
	}
	var byPath map[string]Path
	if err := json.Unmarshal(data, &byPath); err != nil {
		return nil, err
	}
	for path, info := range byPath {
		info.Path = path
		list = append(list, info)
	}

	return list, nil
}

// Share is what one machine may have, until it is closed.
type Share struct {
	Token     string // the last part of the URL
	PublicKey string // for nix's trusted-public-keys

	cache  *Cache
	client netip.Addr
	paths  map[string]*shared    // by the hash in their name
	sent   atomic.Int64          // bytes of NARs
	broken atomic.Pointer[error] // the first of the store
	zstd   atomic.Bool           // NARs are compressed
}

type shared struct {
	path string
	size int64  // of the NAR, bytes
	info string // narinfo
}

// Open shares paths with the machine at the address client.
func (c *Cache) Open(client netip.Addr, paths []Path) (*Share, error) {
	s := &Share{Token: rand.Text(), cache: c, client: client.Unmap(), paths: make(map[string]*shared, len(paths))}

	// The name tells people where a signature in their store is from.
	secret, public, err := signature.GenerateKeypair("provision-"+s.Token[:8], rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of a share: %w", err)
	}

	s.PublicKey = public.String()
	for _, p := range paths {
		hash, _, ok := strings.Cut(path.Base(p.Path), "-")
		if !ok {
			return nil, fmt.Errorf("share %s: not a store path", p.Path)
		}
		info, err := p.describe(hash, secret)
		if err != nil {
			return nil, err
		}
		s.paths[hash] = &shared{p.Path, p.NarSize, info}
	}

	c.mu.Lock()
	defer c.mu.Unlock()

	if c.shares == nil {
		c.shares = make(map[string]*Share)
	}
	c.shares[s.Token] = s
	return s, nil
}

// Shares is how many shares there are.
func (c *Cache) Shares() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.shares)
}

// Close ends the share. What is being sent is sent to its end.
func (s *Share) Close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	delete(s.cache.shares, s.Token)
}

// Err is what was wrong with the store, if a NAR could not be sent for that.
func (s *Share) Err() error {
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Compress has NARs compressed, for those who ask for what there is from now on: for a slow network.
func (s *Share) Compress() { s.zstd.Store(true) }

// Sent is how many bytes of NARs went out until now, before they were compressed.
func (s *Share) Sent() int64 { return s.sent.Load() }

// ServeHTTP serves the open shares. Who has no share's token, or another machine's, gets no answer at all.
func (c *Cache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := c.find(r.URL.Path)
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if s == nil || err != nil || from.Addr().Unmap() != s.client {
		panic(http.ErrAbortHandler)
	}
	if !s.take(w, r) {
		s.answer(w, r)
	}
}

// find is the share whose token is in a URL's path; nil: it is not open.
func (c *Cache) find(url string) *Share {
	token, _, _ := strings.Cut(strings.TrimPrefix(url, Prefix), "/")
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.shares[token]
}

func (s *Share) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		sendText(w, http.StatusMethodNotAllowed, "text/plain", "only GET and HEAD\n")
		return
	}
	_, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, Prefix), "/")
	hash, isInfo := strings.CutSuffix(name, ".narinfo")
	nar, isNAR := strings.CutPrefix(name, "nar/")
	nar, packed := strings.CutSuffix(nar, ".zst")
	nar = strings.TrimSuffix(nar, ".nar")
	switch {
	case name == "nix-cache-info":
		// The priority puts it before the caches of the flake, which are further away.
		sendText(w, http.StatusOK, "text/x-nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n")
	case isInfo && s.paths[hash] != nil:
		info := s.paths[hash].info
		if s.zstd.Load() { // which is not signed: what it unpacks to is
			info = strings.Replace(info, ".nar\nCompression: none\n", ".nar.zst\nCompression: zstd\n", 1)
		}
		sendText(w, http.StatusOK, "text/x-nix-narinfo", info)
	case isNAR && packed && s.paths[nar] != nil:
		s.servePacked(w, r, s.paths[nar])
	case isNAR && s.paths[nar] != nil:
		s.serveNAR(w, r, s.paths[nar])
	case name == RateName:
		serveRate(w)
	default:
		sendText(w, http.StatusNotFound, "text/plain", "not of this install\n")
	}
}

func sendText(w http.ResponseWriter, status int, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}

// describe is the narinfo of a path, signed.
func (p Path) describe(hash string, key signature.SecretKey) (string, error) {
	sha256 := nixhash.SHA256
	digest, err := nixhash.ParseAny(p.NarHash, &sha256)
	if err != nil {
		return "", fmt.Errorf("hash of %s: %w", p.Path, err)
	}

	n := narinfo.NarInfo{
		StorePath:   p.Path,
		URL:         "nar/" + hash + ".nar",
		Compression: "none",
		CA:          p.CA,
		NarHash:     nixhash.MustNewHashWithEncoding(nixhash.SHA256, digest.Digest(), nixhash.NixBase32, true),
		NarSize:     uint64(p.NarSize),
	}
	references := slices.Sorted(slices.Values(p.References))
	for _, ref := range references {
		n.References = append(n.References, path.Base(ref))
	}

	// Those that it has already stay with the path.
	for _, text := range p.Signatures {
		if sig, err := signature.ParseSignature(text); err == nil {
			n.Signatures = append(n.Signatures, sig)
		}
	}

	// As n.Fingerprint, whose time is the square of the references'.
	ours, err := key.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;%s", p.Path, n.NarHash, p.NarSize, strings.Join(references, ",")))
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", p.Path, err)
	}

	n.Signatures = append(n.Signatures, ours)
	return n.String(), nil
}

// serveNAR streams a path. A machine whose connection broke asks for the rest
// (RFC 9110 section 14.1.2; nix asks for "bytes=N-").
func (s *Share) serveNAR(w http.ResponseWriter, r *http.Request, p *shared) {
	from, status := int64(0), http.StatusOK
	if rest, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && strings.HasSuffix(rest, "-") {
		if n, err := strconv.ParseInt(strings.TrimSuffix(rest, "-"), 10, 64); err == nil && n >= 0 && n < p.size {
			from, status = n, http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", n, p.size-1, p.size))
		}
	}

	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/x-nix-nar")
	w.Header().Set("Content-Length", strconv.FormatInt(p.size-from, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	s.end(writeNAR(w, p.path, p.size, from, &s.sent))
}

// end ends the answer; if that went wrong, so that the machine sees that it is cut short.
func (s *Share) end(err error) {
	if err == nil {
		return
	}
	if network := (*net.OpError)(nil); !errors.As(err, &network) {
		s.broken.CompareAndSwap(nil, &err)
	}
	panic(http.ErrAbortHandler)
}

// encoders compress as fast as zstd can, each with one core and few megabytes.
var encoders = sync.Pool{New: func() any {
	e, _ := zstd.NewWriter(nil, // the options are valid
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20),
	)
	return e
}}

// servePacked streams a path through zstd. How much that comes to is known at its end, so there are no parts of it.
func (s *Share) servePacked(w http.ResponseWriter, r *http.Request, p *shared) {
	w.Header().Set("Content-Type", "application/zstd")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	e := encoders.Get().(*zstd.Encoder)
	defer func() {
		e.Reset(nil)
		encoders.Put(e)
	}()
	e.Reset(w)
	s.end(errors.Join(writeNAR(e, p.path, p.size, 0, &s.sent), e.Close()))
}

// RateName is what a machine fetches from its share to learn how fast its network is: as many bytes as arrive in
// a second, 16 MB at most.
const RateName = "rate"

func serveRate(w http.ResponseWriter) {
	w.WriteHeader(http.StatusOK)
	var zeros [64 << 10]byte
	for begun, left := time.Now(), 16<<20; left > 0 && time.Since(begun) < time.Second; left -= len(zeros) {
		if _, err := w.Write(zeros[:]); err != nil {
			return // it has seen enough
		}
	}
}
