package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Limits of downloads, in bytes.
const (
	maxInitrd = 16 << 30
	maxText   = 1 << 20
)

// fetch downloads the files of a URL.
type fetch struct {
	c        *Catalog
	given    *digests
	dir      string // gets links to the partial downloads, under the files' own names
	progress func(Progress)
	partials []*partialDownload
	texts    map[string]string // published texts by URL; "" if there was none
	checked  int               // how the files were verified: the lowest index in checks
}

// checks are the ways in which downloads are verified, from weak to strong; see [Image.Checked].
var checks = []string{"", "https", "digest published beside it", "digest given"}

// errOpen is the error for an unprotected download without a digest.
type errOpen struct{ url, name string }

func (e errOpen) Error() string {
	return fmt.Sprintf("download %s: anyone on the way can change what comes over plain http, and what this image "+
		"boots is given the keys of hosts: "+
		"use https, or give the file's digest with --sha256 %s=HEX", e.url, e.name)
}

// isFile reports whether a URL is that of a tarball or ISO, rather than of a folder. Only its name can tell.
func isFile(u *url.URL) bool {
	name := strings.ToLower(path.Base(u.Path))
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.bz2", ".iso"},
		func(ext string) bool { return strings.HasSuffix(name, ext) })
}

// parseURL reads a URL, and refuses those with a user name or password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("from: it is no URL that can be read")
	case u.User != nil:
		return nil, errors.New("from: a name or password in a URL ends up in logs and in the image's record: " +
			"download it yourself, and add the files")
	case u.Host == "":
		return nil, fmt.Errorf("from %s: the URL names no server", plainURL(u))
	}
	return u, nil
}

// folder downloads the files of a release below a URL into f.dir. The name of the iPXE script tells the architecture.
func (f *fetch) folder(ctx context.Context, base *url.URL, arch Arch) error {
	arches := []Arch{X86_64, AArch64}
	if arch != "" {
		arches = []Arch{arch}
	}
	var found []string
	var refused error
	for _, a := range arches {
		suffixes := []string{"-" + string(a) + "-linux", "-" + string(a)}
		suffix, err := f.first(ctx, base, maxText, suffixes, func(s string) string { return "netboot" + s + ".ipxe" })
		var open errOpen
		switch {
		case err == nil:
			found = append(found, suffix)
		case errors.As(err, &open):
			refused = cmp.Or(refused, err)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}

	switch {
	case len(found) == 0 && refused != nil:
		return refused
	case len(found) == 0:
		_, err := f.first(ctx, base, maxText, []string{""}, func(string) string { return "netboot.ipxe" })
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s has no netboot.ipxe, and no netboot-ARCH-linux.ipxe with ARCH %s: "+
				"give the URL of a folder with the files of a nixos-images release, or of a .tar.gz or .iso", plainURL(base), arches)
		}
		if err != nil {
			return err
		}
		found = []string{""}
	case len(found) > 1:
		return fmt.Errorf("%s holds images for x86_64 and for aarch64: say which with --arch", plainURL(base))
	}

	_, err := f.first(ctx, base, maxKernel, []string{"bzImage", "Image"}, func(s string) string { return s + found[0] })
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no %s and no %s", plainURL(base), "bzImage"+found[0], "Image"+found[0])
	}
	if err == nil {
		err = f.file(ctx, base.JoinPath("initrd"+found[0]), "initrd"+found[0], maxInitrd)
	}

	return err
}

// first downloads the first of several files that exists, and returns which one that was; the error is fs.ErrNotExist
// if none exists. A file that may not come over plain HTTP is skipped if another one exists.
func (f *fetch) first(ctx context.Context, base *url.URL, limit int64, which []string,
	name func(string) string) (string, error) {
	var refused error
	for _, w := range which {
		err := f.file(ctx, base.JoinPath(name(w)), name(w), limit)
		var open errOpen
		switch {
		case errors.As(err, &open):
			refused = cmp.Or(refused, err)
		case !errors.Is(err, fs.ErrNotExist):
			return w, err
		}
	}

	return "", cmp.Or(refused, error(fs.ErrNotExist))
}

// file downloads the file at u, verifies it, and makes a link to it with the given name in f.dir. limit is its largest
// size in bytes.
func (f *fetch) file(ctx context.Context, u *url.URL, name string, limit int64) error {
	want, given := f.given.of(name)
	if !given && !secure(u) {
		return errOpen{plainURL(u), name}
	}
	p, err := openPartial(f.c.dir, u.String())
	if err != nil {
		return err
	}

	err = f.c.http.get(ctx, remote{u, limit, given}, p, func(done, total int64) {
		f.progress(Progress{"downloading " + name, done, total})
	})
	if err != nil {
		return errors.Join(err, p.close(true))
	}

	f.partials = append(f.partials, p)
	how := 3
	if !given {
		how = 2
		if want, err = f.published(ctx, u, name); err != nil {
			return err
		}
	}

	if want == "" {
		how = map[string]int{"https": 1}[u.Scheme]
	} else if err := check(ctx, p, name, want, checks[how]); err != nil {
		return err
	}

	f.checked = min(f.checked, how)
	return os.Symlink(p.f.Name(), filepath.Join(f.dir, name))
}

// check compares a download with a digest, and empties it if they differ. whose says where the digest comes from.
func check(ctx context.Context, p *partialDownload, name, want, whose string) error {
	got, err := p.sum(ctx)
	if err == nil && got != want {
		err = fmt.Errorf("%s: its sha256 is %s, and the %s is %s: it is not the file that was meant, or was "+
			"damaged on the way", name, got, whose, want)
		err = errors.Join(err, p.restart(""))
	}
	return err
}

// published looks for a digest of the file at u next to that file; "" if there is none. The digest comes over the same
// kind of connection as the file, so it only detects damage, or a mirror that does not agree with the publisher.
func (f *fetch) published(ctx context.Context, u *url.URL, name string) (string, error) {
	beside := *u
	beside.Path += ".sha256"
	beside.RawPath = ""
	for _, at := range []*url.URL{&beside, u.JoinPath("..", "SHA256SUMS"), u.JoinPath("..", "sha256sums")} {
		text, have := f.texts[at.String()]
		if !have {
			var err error
			if text, err = f.text(ctx, at); err != nil {
				return "", err
			}
			f.texts[at.String()] = text
		}

		if digest := findDigest(text, name, at == &beside); digest != "" {
			return digest, nil
		}
	}

	return "", nil
}

// text downloads a small file; "" if there is none.
func (f *fetch) text(ctx context.Context, u *url.URL) (string, error) {
	p, err := openPartial(f.dir, u.String())
	if err != nil {
		return "", err
	}
	defer p.close(false)
	err = f.c.http.get(ctx, remote{u, maxText, false}, p, nil)
	var no errRemote
	if errors.As(err, &no) { // the file does not exist, is not allowed, or is too large
		return "", nil
	}
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(p.f.Name())
	return string(text), err
}

// close ends the fetch. With keep, partial downloads stay, so that the next attempt can resume them.
func (f *fetch) close(keep bool) error {
	var errs []error
	for _, p := range f.partials {
		errs = append(errs, p.close(keep))
	}
	return errors.Join(errs...)
}
