// Package cache is a nix binary cache for installs. Each machine gets exactly the store paths of its own install, under
// a token, signed with a key that was made for that install.
//
// Nothing is packed in advance: a NAR is streamed from the store when it is requested. The machine need not trust the
// network to get authentic paths, since it is told the public key over its SSH connection, whose host key is pinned.
// The paths are not secret: nothing in a nix store should be.
//
// The protocol is that of nix (nix.dev/manual/nix, "HTTP Binary Cache Store"): nix-cache-info, HASH.narinfo,
// nar/HASH.nar, and nar/HASH.nar.zst for slow networks.
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

// Prefix is the URL path under which a [Cache] must be served.
const Prefix = "/cache/"

// Cache is an [http.Handler] for all open shares. It is safe for concurrent use.
type Cache struct {
	mu     sync.RWMutex
	shares map[string]*Share // by token
}

// Path is a store path, as `nix path-info --json` describes it.
type Path struct {
	Path       string   `json:"path"`
	NarHash    string   `json:"narHash"` // SHA-256, in any format of nix
	NarSize    int64    `json:"narSize"` // in bytes
	References []string `json:"references"`
	Signatures []string `json:"signatures"`
	CA         string   `json:"ca"`
}

// ParsePaths reads the output of `nix path-info --json`: a list before nix 2.19, and an object with the paths as keys
// since then.
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

// Share is what one machine may fetch until the share is closed.
type Share struct {
	Token     string // part of the URL: Prefix + Token
	PublicKey string // for trusted-public-keys of nix

	cache  *Cache
	client netip.Addr            // address of the machine
	paths  map[string]*shared    // by the hash in their name
	sent   atomic.Int64          // bytes of NARs
	broken atomic.Pointer[error] // first error of the store
	zstd   atomic.Bool           // whether NARs are compressed
}

// shared is a store path of a share.
type shared struct {
	path string
	size int64  // of the NAR, in bytes
	info string // the signed narinfo
}

// Open shares paths with the machine that has the address client. The error is about a path that is not valid.
func (c *Cache) Open(client netip.Addr, paths []Path) (*Share, error) {
	s := &Share{Token: rand.Text(), cache: c, client: client.Unmap(), paths: make(map[string]*shared, len(paths))}

	// The name of the key tells people where a signature in their store comes from.
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

// Shares returns how many shares are open.
func (c *Cache) Shares() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.shares)
}

// Close ends the share. Transfers in progress are completed.
func (s *Share) Close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	delete(s.cache.shares, s.Token)
}

// Err returns the first error of the store because of which a NAR could not be sent; nil if there was none.
func (s *Share) Err() error {
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Compress makes the cache offer compressed NARs from now on, for a slow network.
func (s *Share) Compress() { s.zstd.Store(true) }

// Sent returns how many bytes of NARs have been sent so far, counted before compression.
func (s *Share) Sent() int64 { return s.sent.Load() }

// ServeHTTP serves the open shares. The connection is closed without a response if the URL has no token of a share, or
// the token is another machine's.
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

// find returns the share whose token is in a URL's path; nil if it is not open.
func (c *Cache) find(url string) *Share {
	token, _, _ := strings.Cut(strings.TrimPrefix(url, Prefix), "/")
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.shares[token]
}

// answer answers a request for the share.
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
		// With this priority, nix prefers it to the flake's caches, which are further away. The default of cache.nixos.org is
		// 40.
		sendText(w, http.StatusOK, "text/x-nix-cache-info", "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 10\n")
	case isInfo && s.paths[hash] != nil:
		info := s.paths[hash].info
		if s.zstd.Load() { // the signature covers the uncompressed NAR only
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

// sendText sends a short response.
func sendText(w http.ResponseWriter, status int, kind, body string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}

// describe returns the signed narinfo of a path.
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

	// Existing signatures are kept.
	for _, text := range p.Signatures {
		if sig, err := signature.ParseSignature(text); err == nil {
			n.Signatures = append(n.Signatures, sig)
		}
	}

	// This is n.Fingerprint, whose time grows with the square of the number of references.
	ours, err := key.Sign(rand.Reader, fmt.Sprintf("1;%s;%s;%d;%s", p.Path, n.NarHash, p.NarSize, strings.Join(references, ",")))
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", p.Path, err)
	}

	n.Signatures = append(n.Signatures, ours)
	return n.String(), nil
}

// serveNAR streams a path. A machine whose connection broke requests the rest (RFC 9110 section 14.1.2; nix requests
// "bytes=N-").
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

// end ends a response. After an error it aborts the connection, so that the machine notices that the response is
// incomplete.
func (s *Share) end(err error) {
	if err == nil {
		return
	}
	if network := (*net.OpError)(nil); !errors.As(err, &network) {
		s.broken.CompareAndSwap(nil, &err)
	}
	panic(http.ErrAbortHandler)
}

// encoders are zstd encoders at the fastest level, each of which uses one core and a few megabytes.
var encoders = sync.Pool{New: func() any {
	e, _ := zstd.NewWriter(nil, // the options are valid
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(1<<20),
	)
	return e
}}

// servePacked streams a path compressed by zstd. As the compressed size is not known in advance, ranges are not
// supported.
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

// RateName is the file that a machine fetches from its share to measure its network: it gets as many bytes as can be
// sent in a second, at most 16 MiB.
const RateName = "rate"

// serveRate sends zeros for a second.
func serveRate(w http.ResponseWriter) {
	w.WriteHeader(http.StatusOK)
	var zeros [64 << 10]byte
	for begun, left := time.Now(), 16<<20; left > 0 && time.Since(begun) < time.Second; left -= len(zeros) {
		if _, err := w.Write(zeros[:]); err != nil {
			return // the machine has measured enough
		}
	}
}
