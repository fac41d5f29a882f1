package images

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// FirstStage returns the small initrd made for img, a gzip-compressed cpio in
// the catalog: our static program for img.Arch as /init (internal/firststage),
// and the network drivers that img's initrd holds. A machine whose firmware
// cannot load img's own initrd boots img's kernel with it and the words of
// [FirstStageCmdline].
//
// It is made once for an image and kept while there is an image with that
// initrd; that reads the whole initrd, which takes seconds. It is made anew
// when our program is another. The error says so when the image has no driver
// for any network card, or when this provision was built without its program.
func (c *Catalog) FirstStage(ctx context.Context, img Image) (File, error) {
	return File{}, errors.New("not written yet")
}

// FirstStageCmdline is what the first stage needs on the kernel's command line
// beside img.Cmdline: url, where it gets img's initrd followed by tail
// ([Contract.Tail]), and the sizes and digests that both must have:
//
//	provision.initrd=http://10.0.0.1/boot/TOKEN/initrd provision.sha256=SIZE:SHA256,SIZE:SHA256
//
// Digests are in unpadded base64url (RFC 4648, section 5), for room is scarce:
// the kernel takes 2048 bytes in all. The host of url is an IP address. A dot in
// a word's name keeps the kernel from passing the word on to init.
func FirstStageCmdline(url string, img Image, tail []byte) string {
	image, _ := hex.DecodeString(img.Initrd.SHA256) // the catalog's own
	boot := sha256.Sum256(tail)
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf("provision.initrd=%s provision.sha256=%d:%s,%d:%s", escapeWord(url),
		img.Initrd.Size, b64(image), len(tail), b64(boot[:]))
}

// escapeWord makes a URL one word of a command line, in which the kernel, iPXE
// and U-Boot find nothing to interpret.
func escapeWord(url string) string {
	var b strings.Builder
	for _, c := range []byte(url) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'\\$`;|&<>", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
