package first

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"

	"provision/internal/lab"
)

// BenchmarkFirst switches on a PC with iPXE in ROM, which loads the same image over TFTP as a whole, or with our first
// stage in its initrd's place, and waits for the image's stage 2. What is measured in "s" is from power-on until then;
// MB is what went over TFTP beside the kernel.
func BenchmarkFirst(b *testing.B) {
	for _, way := range []string{"tftp", "first"} {
		b.Run(way, func(b *testing.B) {
			for b.Loop() {
				took, size := bootOverTFTP(b, way == "first")
				b.ReportMetric(took.Seconds(), "s")
				b.ReportMetric(float64(size)/1e6, "MB")
			}
		})
	}
}

func bootOverTFTP(b *testing.B, withFirst bool) (time.Duration, int64) {
	ctx, cancel := context.WithTimeout(b.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(b, ctx, 0, lab.X86_64)
	s := newFaulty(b, w)
	s.start(b)
	files := map[string][]byte{"initrd": []byte(s.file)}
	kernel, err := os.ReadFile(w.image.Kernel)
	check(b, err)
	files["kernel"] = kernel
	cmdline := w.image.Cmdline
	if withFirst {
		files["initrd"], err = os.ReadFile(w.first)
		check(b, err)
		cmdline = w.vm.Cmdline
	}
	files["boot.ipxe"] = []byte("#!ipxe\nkernel tftp://10.77.0.1/kernel initrd=initrd " + cmdline + "\ninitrd tftp://10.77.0.1/initrd\nboot\n")
	serveTFTP(b, files)
	w.router(b, w.lan, w.net, "--dhcp-boot=boot.ipxe,,10.77.0.1")
	w.vm.Kernel = "" // it boots from the network
	begin := time.Now()
	check(b, w.vm.Start(ctx))
	_, err = w.vm.Console().Expect(ctx, "starting udev")
	check(b, err)
	took := time.Since(begin)
	check(b, w.vm.PowerOff())
	return took, int64(len(files["initrd"]))
}

// serveTFTP serves files with pin/tftp.
func serveTFTP(b *testing.B, files map[string][]byte) {
	srv := tftp.NewServer(func(name string, to io.ReaderFrom) error {
		data, ok := files[strings.TrimPrefix(name, "/")]
		if !ok {
			return fmt.Errorf("no file %s", name)
		}
		to.(tftp.OutgoingTransfer).SetSize(int64(len(data)))
		_, err := to.ReadFrom(strings.NewReader(string(data)))
		return err
	}, nil)
	done := make(chan error, 1)
	go func() { done <- srv.ListenAndServe("10.77.0.1:69") }()
	b.Cleanup(func() { srv.Shutdown(); <-done })
}
