package main

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"provision/images"
	"provision/internal/api"
)

// TestReleases: the newest stable release that has files for the architecture is found, with its digests.
func TestReleases(t *testing.T) {
	const both = `{"name": "bzImage-x86_64-linux", "digest": "sha256:11"}, {"name": "initrd-x86_64-linux", "digest": "sha256:22"},
		{"name": "netboot-x86_64-linux.ipxe", "digest": "sha256:33"}, {"name": "Image-aarch64-linux"},
		{"name": "initrd-aarch64-linux"}, {"name": "netboot-aarch64-linux.ipxe"}`
	answer := `[{"tag_name": "nixos-unstable", "assets": [` + both + `]}, {"tag_name": "nixos-25.05", "assets": [` + both + `]},
		{"tag_name": "nixos-26.05", "assets": [` + both + `]}, {"tag_name": "nixos-25.11", "assets": [` + both + `]},
		{"tag_name": "nixos-26.11", "draft": true, "assets": [` + both + `]},
		{"tag_name": "nixos-27.05", "assets": [{"name": "bzImage-x86_64-linux"}]}, {"tag_name": "v99", "assets": [` + both + `]}]`
	status := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(answer))
	}))
	defer server.Close()
	r := releases{list: server.URL + "/releases", download: "https://example.org/download", client: server.Client()}

	here, err := images.ParseArch(runtime.GOARCH)
	if err != nil {
		t.Skip("no image is for this machine")
	}
	for _, tt := range []struct {
		name, arch, tag, image string
		want                   string // name, folder and digest of the kernel, or part of the error
	}{
		{"for an x86-64 machine", "x86_64", "", "own", "^own nixos-26.05 11$"},
		{"for an arm64 machine, without digests", "aarch64", "", "own", "^own nixos-26.05 $"},
		{"an older one", "x86_64", "nixos-25.05", "own", "own nixos-25.05 11"},
		{"one that is not stable", "x86_64", "nixos-unstable", "own", "own nixos-unstable 11"},
		{"its own name", string(here), "", "", "nixos-26.05 nixos-26.05"},
		{"one that there is not", "x86_64", "nixos-19.03", "", "no release nixos-19.03 .* those that have: nixos-25.05, nixos-25.11, "},
		{"one without all files", "x86_64", "nixos-27.05", "", "no release nixos-27.05"},
		{"no architecture", "riscv64", "", "", `unknown architecture "riscv64"`},
	} {
		req := api.ImageRequest{Name: tt.image, Arch: tt.arch}
		got := ""
		if err := r.complete(t.Context(), tt.tag, &req); err != nil {
			got = err.Error()
		} else {
			got = req.Name + " " + strings.TrimPrefix(req.From, "https://example.org/download/") + " " + req.SHA256["bzImage-x86_64-linux"]
		}
		if !regexp.MustCompile(tt.want).MatchString(got) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}

	status, answer = http.StatusForbidden, "{}"
	err = r.complete(t.Context(), "", &api.ImageRequest{})
	if err == nil || !strings.Contains(err.Error(), "403 Forbidden; or name the image: --from URL") {
		t.Errorf("the list is refused: %v", err)
	}
}
