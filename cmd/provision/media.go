package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/internal/api"
	"provision/internal/boards"
)

const mediaHelp = `Make a boot medium for machines that cannot netboot: a disk image for a stick,
or, if its name ends in .iso, an image for a CD (which a stick takes as well).

UEFI starts iPXE from it, which gets an address by DHCP and asks this server
for the installer. What the server answers is decided as for a machine that
netboots: without a permit there is nothing to install, and the machine goes on
to the next boot option. So the medium may stay plugged in. It holds no secret.
For a Raspberry Pi it holds the board's firmware ("provision images firmware")
and U-Boot, which asks in the same way.

  provision images media --host bravo bravo.img
  provision images media --any --arch x86_64 provision.iso
  provision images media --any --arch aarch64 --board rpi4 pi.img
  provision images media --host bravo --write /dev/sdX`

// mediaFlags are the flags of images media.
type mediaFlags struct {
	api.MediaRequest
	any, yes bool
	write    string // the disk to write to
}

// imagesMedia is `provision images media`.
func imagesMedia(daemon *api.Client) *cobra.Command {
	var f mediaFlags
	c := &cobra.Command{Use: "media --host HOST|--any --arch ARCH [--server URL] [--write DISK] [FILE]", Short: "make a boot medium for machines that cannot netboot",
		Long: mediaHelp, Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case (f.Host == "") == !f.any:
				return errUsage{errors.New("images media needs --host HOST, the one that it shall start, or --any")}
			case f.any && f.Arch == "" && f.Board == "":
				return errUsage{errors.New("images media --any needs --arch x86_64 or --arch aarch64")}
			case len(args) == 0 && f.write == "":
				return errUsage{errors.New("images media needs a file to write, or --write DISK")}
			}
			return media(c, daemon, f, args)
		}}
	c.Flags().StringVar(&f.Host, "host", "", "the host that it shall start, and no other")
	c.Flags().BoolVar(&f.any, "any", false, "start any machine that is enrolled")
	c.Flags().StringVar(&f.Arch, "arch", "", "x86_64 or aarch64 (with --host: the host's)")
	c.Flags().StringVar(&f.Board, "board", "", strings.Join(mediaBoards(), " or ")+": with the board's firmware "+
		"(with --host: the host's board)")
	c.Flags().StringSliceVar(&f.Servers, "server", nil, "this server's URL as the machine reaches it (default: "+
		"each address that is served)")
	c.Flags().StringVar(&f.write, "write", "", "write it to this disk, such as /dev/sdX; all that is on it is lost")
	c.Flags().BoolVar(&f.yes, "yes", false, "do not ask before the disk is written")
	_ = c.RegisterFlagCompletionFunc("host", func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return completeHosts(daemon)(c, nil, s)
	}) // the error would mean that the flag does not exist
	return c
}

// mediaBoards returns the names of the boards for which there are media: those whose firmware starts U-Boot, if U-Boot
// has a network driver for the board.
func mediaBoards() []string {
	var names []string
	for _, b := range boards.All() {
		if b.Firmware != "" && b.NoUBootNetwork == "" {
			names = append(names, b.Name)
		}
	}
	return names
}

// media fetches a medium into a file, and writes it to a stick.
func media(c *cobra.Command, daemon *api.Client, f mediaFlags, args []string) error {
	var to *stick
	if f.write != "" {
		var err error
		if to, err = openStick(machineSticks, f.write); err != nil {
			return err
		}
		defer to.Close()
		if err := f.confirm(c, to); err != nil {
			return err
		}
	}

	name := ""
	if len(args) > 0 {
		name = args[0]
		f.ISO = strings.EqualFold(filepath.Ext(name), ".iso")
	}
	img, err := fetchMedia(c.Context(), daemon, f.MediaRequest, name)
	if err != nil {
		return err
	}
	defer img.Close()

	if name != "" {
		info, err := img.Stat()
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s: %.1f MB\n", name, float64(info.Size())/1e6)
	}

	if to == nil {
		return nil
	}
	return burn(c, to, img)
}

// confirm asks whether the stick may be overwritten.
func (f mediaFlags) confirm(c *cobra.Command, to *stick) error {
	if f.yes {
		return nil
	}
	who := askable(c.InOrStdin(), c.ErrOrStderr())
	if who == nil {
		return errUsage{fmt.Errorf("all that is on %s will be lost: say --yes, for there is no terminal to ask on", to)}
	}
	answer, err := who.Line(c.Context(), fmt.Sprintf("All that is on %s will be lost. Type yes: ", to))
	if err != nil {
		return err
	}
	if answer != "yes" {
		return errors.New("nothing was written")
	}
	return nil
}

// burn writes the image to the stick.
func burn(c *cobra.Command, to *stick, img *os.File) error {
	info, err := img.Stat()
	if err != nil {
		return err
	}
	if err := to.holds(info.Size()); err != nil {
		return err
	}
	tell := writing(c.ErrOrStderr())
	err = to.write(c.Context(), img, info.Size(), tell)
	tell("", 0, 0)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s: %.1f MB written, read back and compared\n", to, float64(info.Size())/1e6)
	return nil
}

// writing returns a function that shows the progress of writing on a terminal. Without a text, the function clears the
// line.
func writing(out io.Writer) func(what string, done, total int64) {
	if terminalOf(out) == nil {
		return func(string, int64, int64) {}
	}
	began, last := time.Now(), ""
	return func(what string, done, total int64) {
		if what != last {
			began, last = time.Now(), what
		}
		if what == "" {
			fmt.Fprint(out, clearLine)
			return
		}
		rate := float64(done) / max(time.Since(began).Seconds(), 0.001)
		fmt.Fprintf(out, "%s%s: %.1f of %.1f MB, %.1f MB/s", clearLine, what, float64(done)/1e6, float64(total)/1e6, rate/1e6)
	}
}

// fetchMedia downloads the medium into the file, atomically. Without a name, it uses a temporary file that is unlinked.
func fetchMedia(ctx context.Context, daemon *api.Client, r api.MediaRequest, name string) (_ *os.File, err error) {
	body, size, err := daemon.Sized(ctx, http.MethodPost, api.MediaPath, r)
	if err != nil {
		return nil, err
	}
	defer body.Close()

	path := filepath.Join(filepath.Dir(name), fmt.Sprintf(".%s.%d", filepath.Base(name), os.Getpid()))
	if name == "" {
		path = filepath.Join(os.TempDir(), fmt.Sprintf("provision-medium-%d", os.Getpid()))
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("keep the boot medium: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
		if err != nil || name == "" {
			os.Remove(f.Name())
		}
	}()

	n, err := copySparse(f, body)
	if err == nil && n != size {
		err = errors.New("the server stopped in the middle")
	}
	if err == nil {
		err = f.Truncate(n)
	}
	if err != nil {
		return nil, fmt.Errorf("get the boot medium: %w", err)
	}

	if name == "" {
		return f, nil
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return nil, fmt.Errorf("write %s: %w", name, err)
	}

	return f, nil
}

// copySparse copies data, and leaves holes in the file where they are zero. It returns the number of bytes, to which
// the caller has to set the file's size.
func copySparse(to *os.File, from io.Reader) (at int64, err error) {
	buf, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(from, buf)
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := to.WriteAt(buf[:n], at); err != nil {
				return at, err
			}
		}

		at += int64(n)
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF: // the caller checks the size
			return at, nil
		case err != nil:
			return at, err
		}
	}
}
