package initrd_test

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"provision/internal/initrd"
)

// A server gives an image, whose initrd it leaves as it is, the key of one boot.
func Example() {
	image := initrd.Archive([]initrd.File{
		{Path: "init", Mode: 0o755, Data: []byte("#!/bin/sh\n")},
		{Path: "motd", Mode: 0o644, Data: []byte("an image")},
	})
	overlay := initrd.Overlay([]initrd.File{
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: []byte("ssh-ed25519 AAAA…")},
		{Path: "motd", Mode: 0o644, Data: []byte("this boot")},
	})

	var whole bytes.Buffer
	whole.Write(image)
	whole.Write(make([]byte, initrd.Padding(int64(len(image)))))
	whole.Write(overlay)

	// The kernel unpacks the files in this order, so that the second motd stays.
	err := initrd.Walk(&whole, func(name string, h initrd.Header, content io.Reader) error {
		data, err := io.ReadAll(content)
		fmt.Printf("%06o %s %q\n", h.Mode, name, data)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	// Output:
	// 100755 init "#!/bin/sh\n"
	// 100644 motd "an image"
	// 040755 ssh ""
	// 100600 ssh/authorized_keys "ssh-ed25519 AAAA…"
	// 100644 motd "this boot"
}
