package images

import (
	"fmt"
	"strings"
)

// maxParams bounds the operator's kernel parameters for an image, and those for a host, in bytes. The kernel has room
// for 2048 bytes in all.
const maxParams = 512

// ownParams are the kernel parameters that the image and the server agree on, with the reason why an operator cannot
// set them.
var ownParams = map[string]string{
	"init":   "it belongs to the image: another would start nothing",
	"rdinit": "it belongs to the image, or to the first stage",
	"initrd": "the server gives it",
	"root":   "the installer is in its initrd",
	"bootif": "the server gives it",
}

// ParseKernelParams checks words that are to be added to a kernel command line: NAME or NAME=VALUE. A single empty word
// means none. Errors are words that iPXE, U-Boot, the firmware of a Raspberry Pi or the kernel would interpret, and
// words that would keep the installer from starting.
func ParseKernelParams(params []string) ([]string, error) {
	if len(params) == 1 && params[0] == "" {
		return nil, nil
	}
	for _, p := range params {
		name, _, _ := strings.Cut(p, "=")

		// To the kernel, - and _ in a name are the same.
		name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
		switch {
		case name == "":
			return nil, fmt.Errorf("kernel parameter %q: write NAME or NAME=VALUE, such as console=ttyS0,115200", p)
		case strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\$`|&;<>{}", r) }):
			return nil, fmt.Errorf("kernel parameter %q: write one word of plain text, without blanks, quotes and "+
				"any of \\ $ ` | & ; < > { }", p)
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

// BootCmdline returns the command line of a boot: the image's own, then the operator's parameters for the image, then
// those for the host. Later ones win.
func (img Image) BootCmdline(host []string) string {
	line := img.Cmdline
	for _, params := range [][]string{img.KernelParams, host} {
		for _, p := range params {
			line += " " + p
		}
	}
	return strings.TrimPrefix(line, " ")
}

// Fits returns an error if the command line with these parameters of a host is longer than the kernel allows.
func (img Image) Fits(host []string) error {
	if n := len(img.BootCmdline(host)); n > maxCmdline {
		return fmt.Errorf("the command line of image %s would have %d bytes with the kernel parameters; the kernel "+
			"cuts it off, at most %d fit",
			img.Name, n, maxCmdline)
	}
	return nil
}

// SetKernelParams sets what is added to the command line of an image at every boot. It is kept when the image is added
// again.
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
