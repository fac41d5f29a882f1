# provision: `make demo` and `make test` need nothing beforehand but a Debian
# or Ubuntu machine, root and the network; ./setup installs what is missing.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.0
FUZZTIME ?= 30s
export PATH := $(CURDIR)/.cache/go/bin:$(PATH)
export CGO_ENABLED := 0

help: ## this list
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

build: firststage ## bin/provision, static
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/provision ./cmd/provision

firststage: ## the first stage's program for both architectures, which is built into provision
	@mkdir -p .cache
	@for a in amd64:x86_64 arm64:aarch64; do out=images/firststage/$${a#*:}.gz; \
		GOARCH=$${a%:*} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o .cache/firststage ./internal/firststage && \
		gzip -9nc .cache/firststage >$$out.new || exit 1; \
		if cmp -s $$out.new $$out; then rm $$out.new; else mv $$out.new $$out; fi; done

# Versions of packages begin with a digit, and a later commit's is higher.
DEB_VERSION := $(shell git log -1 --format=0~%cd.%h --date=format:%Y%m%d%H%M 2>/dev/null || echo 0~devel)

release: build ## static programs and Debian packages for amd64 and arm64, and their SHA256SUMS, in bin/
	for arch in amd64 arm64; do GOARCH=$$arch go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/provision-linux-$$arch ./cmd/provision || exit 1; done
	for arch in amd64 arm64; do PROVISION=bin/provision packaging/deb $$arch $(DEB_VERSION) bin/provision-linux-$$arch bin/provision_$$arch.deb || exit 1; done
	cd bin && sha256sum provision-linux-* provision_*.deb >SHA256SUMS

demo: setup build ## watch a virtual machine become an installed host
	go run ./internal/lab/demo

test: setup build lint unit fuzz e2e ## everything

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "not gofmt-ed:"; gofmt -l .; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

unit: firststage ## all tests but the long ones, with the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 10m $$(go list ./... | grep -v /internal/lab)

fuzz: ## each fuzz target for $(FUZZTIME)
	.ci/fuzz $(FUZZTIME)

soak: ## ten million damaged packets, no race detector
	PROVISION_SOAK=10000000 go test -count=1 -timeout 60m -run TestSoak -v ./pxe

e2e: build ## whole installs in QEMU; SUITE=bookworm has guests of Debian 12 instead of 13 (see docs/testbed.md)
	.ci/e2e

lab: setup ## test the test bed alone: netboots and installs by hand, without provision
	CGO_ENABLED=1 go test -race -count=1 -v -timeout 30m -run ByHand ./internal/lab

layouts: setup ## each disk layout in QEMU: made, closed, mounted, formatted again
	CGO_ENABLED=1 LAYOUTS=. go test -race -count=1 -v -timeout 60m ./internal/lab/layouts

bench: setup build ## benchmarks, as ratios against nginx and dnsmasq in the same run
	.ci/bench

# To get them: git clone https://github.com/nix-community/disko (the results are of commit 878ec37) and
# https://github.com/nix-community/nixpkgs.lib, whose folder lib is PROVISION_NIXPKGS_LIB. With TAGS="v1.1.0 v1.13.0 newest"
# there is no machine: the commands are compared with those of each release's own scripts (docs/disko.md).
beside: setup ## our disks beside disko's own, by PROVISION_DISKO=FOLDER PROVISION_NIXPKGS_LIB=FOLDER [TAGS="v1.1.0 …"]
ifdef TAGS
	DISKO_TAGS="$(TAGS)" go test -count=1 -v -timeout 90m -run ReleasesByHand ./disko
else
	CGO_ENABLED=1 go test -count=1 -v -timeout 90m -run DiskoByHand ./internal/lab/beside
endif

presets: ## the layout presets, evaluated by disko, are what is committed; needs what beside needs, but no machine
	CGO_ENABLED=1 go test -count=1 -v -run PresetsByHand ./internal/lab/beside

module: ## the module for NixOS, evaluated by PROVISION_NIXPKGS_LIB=FOLDER, which beside needs, too
	go test -count=1 -v -run 'TestNix.*ByHand' ./cmd/provision

setup: ## install the tools that tests and demo use
	./setup

.PHONY: help build firststage release demo test lint unit fuzz soak e2e lab layouts bench beside presets module setup
