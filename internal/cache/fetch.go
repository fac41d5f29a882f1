package cache

import "slices"

// Patience are options that make nix give up soon on a server that was killed, since a restarted server waits for nix
// to end.
var Patience = []string{"--option", "download-attempts", "3", "--option", "connect-timeout", "5", "--option", "stalled-download-timeout", "30"}

// Fetch returns the command with which a machine fetches the closures of paths from a binary cache into a store (a
// store URL of nix), trusting this public key. It fetches eight paths at a time, unlike nix copy of nix 2.8. With
// nearer, it prefers the machine's own caches, and trusts their keys as well.
func Fetch(cache, key, store string, nearer bool, paths ...string) []string {
	from := []string{"--quiet", "--option", "substituters", cache, "--option", "trusted-public-keys", key}
	if nearer { // cache.nixos.org has the priority 40; nix prints what it fetches from where
		from = []string{"--option", "extra-substituters", cache + "?priority=90", "--option", "extra-trusted-public-keys", key}
	}
	return slices.Concat([]string{"nix-store", "--realise", "--max-jobs", "8", "--store", store}, from, Patience, paths)
}
