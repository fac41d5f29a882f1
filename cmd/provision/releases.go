package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"provision/images"
	"provision/internal/api"
)

// releases is where the installer images of nixos-images are published (https://docs.github.com/rest/releases).
type releases struct {
	list     string // URL of the list of releases, JSON
	download string // URL of the folder that has one folder for each release
	client   *http.Client
}

// nixosImages are the releases on GitHub.
func nixosImages() releases {
	return releases{
		list:     "https://api.github.com/repos/nix-community/nixos-images/releases?per_page=100",
		download: "https://github.com/nix-community/nixos-images/releases/download",
		client:   &http.Client{Timeout: 30 * time.Second},
	}
}

// release is what GitHub says of one.
type release struct {
	Tag    string `json:"tag_name"`
	Draft  bool   `json:"draft"`
	Assets []struct {
		Name   string `json:"name"`
		Digest string `json:"digest"` // sha256:HEX; empty for files from before 2025
	} `json:"assets"`
}

// stableRelease is how the tag of a stable NixOS release is called.
var stableRelease = regexp.MustCompile(`^nixos-\d\d\.\d\d$`)

// maxReleases bounds the list of releases, bytes.
const maxReleases = 8 << 20

// complete fills in where the image of a release is: of the newest stable one that has files for the architecture, or
// of the one with this tag. The name is the release's, the architecture this machine's, unless they are given.
func (r releases) complete(ctx context.Context, tag string, req *api.ImageRequest) error {
	arch, err := images.ParseArch(req.Arch)
	if req.Arch == "" {
		arch, err = images.ParseArch(runtime.GOARCH)
	}
	if err != nil {
		return err
	}
	all, err := r.fetch(ctx)
	if err != nil {
		return fmt.Errorf("look up the releases of nixos-images: %w; or name the image: --from URL", err)
	}

	var best *release
	var tags []string
	for i, rel := range all {
		if _, has := rel.files(arch); rel.Draft || !has {
			continue
		}
		tags = append(tags, rel.Tag)
		wanted := rel.Tag == tag || tag == "" && stableRelease.MatchString(rel.Tag)
		if wanted && (best == nil || rel.Tag > best.Tag) {
			best = &all[i]
		}
	}
	if best == nil {
		slices.Sort(tags)
		return fmt.Errorf("no release %s of nixos-images has files for %s; those that have: %s",
			tag, arch, strings.Join(tags, ", "))
	}

	req.Arch = string(arch)
	req.From = r.download + "/" + best.Tag
	req.SHA256, _ = best.files(arch)
	if req.Name == "" {
		req.Name = best.Tag
		if here, err := images.ParseArch(runtime.GOARCH); err != nil || here != arch {
			req.Name += "-" + string(arch)
		}
	}
	return nil
}

// fetch returns the list of releases.
func (r releases) fetch(ctx context.Context) (all []release, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.list, nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()

	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL.Host, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReleases+1))
	if err == nil && len(data) > maxReleases {
		err = errors.New("the list is too long")
	}
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(data, &all)
}

// files are the release's files for netbooting the architecture, with their digests in hexadecimal where they are
// published. It reports whether all of them are there.
func (r release) files(arch images.Arch) (digests map[string]string, ok bool) {
	digests = make(map[string]string)
	has := func(name string) bool {
		for _, a := range r.Assets {
			if a.Name == name {
				if hex, ok := strings.CutPrefix(a.Digest, "sha256:"); ok {
					digests[name] = hex
				}
				return true
			}
		}
		return false
	}
	system := string(arch) + "-linux"
	kernel := has("bzImage-"+system) || has("Image-"+system)
	return digests, kernel && has("initrd-"+system) && has("netboot-"+system+".ipxe")
}
