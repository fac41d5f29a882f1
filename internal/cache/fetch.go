package cache

import "slices"

// Patience is nix's with a server that was killed: it is not asked for long, for who comes after it waits for this to
// end.
var Patience = []string{"--option", "download-attempts", "3", "--option", "connect-timeout", "5", "--option", "stalled-download-timeout", "30"}

// Fetch is how a machine fetches the closures of paths out of a binary cache into a store (as nix names it), trusting
// this public key. It is eight paths at a time, which the nix copy of 2.8 does not. Nearer has it ask the machine's own
// caches first, trusting their keys as well.
func Fetch(cache, key, store string, nearer bool, paths ...string) []string {
	from := []string{"--quiet", "--option", "substituters", cache, "--option", "trusted-public-keys", key}
	if nearer { // cache.nixos.org has the priority 40; nix says what it fetches from where
		from = []string{"--option", "extra-substituters", cache + "?priority=90", "--option", "extra-trusted-public-keys", key}
	}
	return slices.Concat([]string{"nix-store", "--realise", "--max-jobs", "8", "--store", store}, from, Patience, paths)
}
