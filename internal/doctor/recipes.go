package doctor

import (
	"embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

//go:embed recipes
var recipes embed.FS

// Recipes are the names of the DHCP servers that Recipe knows.
var Recipes = []string{"dnsmasq", "kea", "isc", "opnsense", "mikrotik"}

// Recipe returns the settings with which a DHCP server points machines to this server, for --dhcp off.
func Recipe(name string, server netip.Addr, httpPort int) (string, error) {
	if !slices.Contains(Recipes, name) {
		return "", fmt.Errorf("no settings are known for DHCP server %q; there are: %s", name, strings.Join(Recipes, ", "))
	}
	text, err := recipes.ReadFile("recipes/" + name)
	if err != nil {
		return "", err
	}
	url := "http://" + server.String()
	if httpPort != 80 {
		url = fmt.Sprintf("http://%s", netip.AddrPortFrom(server, uint16(httpPort)))
	}
	return strings.NewReplacer("@SERVER@", server.String(), "@URL@", url).Replace(string(text)), nil
}

// Address returns this machine's IPv4 address on an interface, to be used in Recipe.
func Address(ifname string) (netip.Addr, error) {
	l := readLink(ifname)
	if !l.Address.IsValid() {
		return netip.Addr{}, fmt.Errorf("network interface %s has no IPv4 address to point machines to", ifname)
	}
	return l.Address.Addr(), nil
}
