package images

import (
	"fmt"
	"strings"
)

// maxParams bounds the kernel parameters of an image, and those of a host, in bytes: the kernel has
// room for 2048 in all.
const maxParams = 512

// ownParams are the parameters of a kernel command line that hold the contract between the image and
// the server, and who gives them.
var ownParams = map[string]string{
	"init":   "it belongs to the image: another would start nothing",
	"rdinit": "it belongs to the image, or to the first stage",
	"initrd": "the server gives it",
	"root":   "the installer is in its initrd",
	"bootif": "the server gives it",
}

// ParseKernelParams reads what is to be added to a kernel command line: NAME or NAME=VALUE, one word
// each. A single empty one is none at all. Refused is what iPXE, U-Boot, a Raspberry Pi's firmware or
// the kernel would take for something else, and what would keep the installer from starting.
func ParseKernelParams(params []string) ([]string, error) {
	if len(params) == 1 && params[0] == "" {
		return nil, nil
	}
	for _, p := range params {
		name, _, _ := strings.Cut(p, "=")

		// The kernel takes - and _ in a name for the same.
		name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
		switch {
		case name == "":
			return nil, fmt.Errorf("kernel parameter %q: write NAME or NAME=VALUE, such as console=ttyS0,115200", p)
		case strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\$`|&;<>{}", r) }):
			return nil, fmt.Errorf("kernel parameter %q: write one word of plain text, without blanks, quotes and any of \\ $ ` | & ; < > { }", p)
		case strings.Trim(name, "_") == "":
			return nil, fmt.Errorf("kernel parameter %q: what follows it would be init's", p)
		case ownParams[name] != "":
			return nil, fmt.Errorf("kernel parameter %q: %s", p, ownParams[name])
		case strings.HasPrefix(name, "provision."):
			return nil, fmt.Errorf("kernel parameter %q: names that begin with provision. are the server's own", p)
		}
	}

	if n := len(strings.Join(params, " ")); n > maxParams {
		return nil, fmt.Errorf("kernel parameters of %d bytes: at most %d fit", n, maxParams)
	}
	return params, nil
}

// BootCmdline is the command line of a boot: the image's own, and behind it, where they win, the
// operator's parameters for the image and then those for the host.
func (img Image) BootCmdline(host []string) string {
	line := img.Cmdline
	for _, params := range [][]string{img.KernelParams, host} {
		for _, p := range params {
			line += " " + p
		}
	}
	return strings.TrimPrefix(line, " ")
}

// Fits refuses a host's parameters for which the kernel has no room behind the image's.
func (img Image) Fits(host []string) error {
	if n := len(img.BootCmdline(host)); n > maxCmdline {
		return fmt.Errorf("the command line of image %s would have %d bytes with the kernel parameters; the kernel cuts it off, at most %d fit",
			img.Name, n, maxCmdline)
	}
	return nil
}

// SetKernelParams sets what is added to the command line of an image at every boot. It stays when the image is
// added again.
func (c *Catalog) SetKernelParams(name string, params []string) (Image, error) {
	if _, err := c.Get(name); err != nil {
		return Image{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()

	img, err := c.read(name)
	if err != nil {
		return Image{}, err
	}

	if img.KernelParams, err = ParseKernelParams(params); err != nil {
		return Image{}, err
	}
	if err := img.Fits(nil); err != nil {
		return Image{}, err
	}
	if err := c.publish(img, nil); err != nil {
		return Image{}, fmt.Errorf("change image %s: %w", name, err)
	}
	return img, nil
}
