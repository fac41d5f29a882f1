package main

import (
	"cmp"
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

	"provision/images"
	"provision/internal/api"
)

const imagesAddHelp = `Add an installer image. Without a SOURCE it is the newest stable one that
nixos-images publishes for this machine's architecture (or --arch, --release),
fetched over https and compared with its published digests; it is called as the
release is, unless NAME says otherwise. SOURCE is one of

  a kexec tarball of nixos-images, or the URL of one
  a folder, or the URL of one, with the files of a nixos-images release
      (bzImage-ARCH-linux or Image-ARCH-linux, initrd-…, netboot-….ipxe),
      or with the output of a netboot build
  a flake reference, which nix builds: FLAKE#ATTR, such as .#netboot or
      .#nixosConfigurations.installer with nixpkgs' netboot module

What comes from a URL must come over https, or with its digest (--sha256). A
download that breaks off goes on where it was when the command is given again.

  provision images add
  provision images add --arch aarch64 --release nixos-25.05
  provision images add nixos --from nixos-kexec-installer-noninteractive-x86_64-linux.tar.gz
  provision images add nixos --from http://mirror/kexec.tar.gz --sha256 9f86d081884c7d65…
  provision images add nixos --from ~/fleet#nixosConfigurations.installer
  provision images add own --kernel bzImage --initrd initrd --cmdline "init=/nix/store/...-nixos/init"`

// imagesAdd is `provision images add`.
func imagesAdd(daemon *api.Client) *cobra.Command {
	var r api.ImageRequest
	var digests []string
	var tag string
	c := &cobra.Command{
		Use:   "add [NAME] [--from SOURCE | --kernel FILE --initrd FILE [--cmdline TEXT]]",
		Short: "add an image", Long: imagesAddHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if len(args) == 1 {
				r.Name = args[0]
			}
			single := r.Kernel != "" || r.Initrd != "" || r.Cmdline != ""
			published := r.From == "" && !single
			switch {
			case r.From != "" && single, single && (r.Kernel == "" || r.Initrd == ""):
				return errUsage{errors.New("images add needs --from, or --kernel and --initrd, or none of them")}
			case r.Name == "" && !published:
				return errUsage{errors.New("images add needs a NAME for what does not come from nixos-images")}
			case tag != "" && !published:
				return errUsage{errors.New("--release is of nixos-images, and does not go with --from or --kernel")}
			case published && len(digests) > 0:
				return errUsage{errors.New("--sha256 goes with --from; those of a release are known")}
			case single && len(digests) > 0:
				return errUsage{errors.New("--sha256 goes with --from; sha256sum --check does it for single files")}
			}

			if r.SHA256, err = parseDigests(digests); err != nil {
				return errUsage{err}
			}
			if _, err := images.ParseKernelParams(r.KernelParams); err != nil {
				return errUsage{err}
			}

			for _, p := range []*string{&r.Kernel, &r.Initrd} {
				if err == nil && *p != "" {
					*p, err = filepath.Abs(*p)
				}
			}
			if err == nil && r.From != "" {
				r.From, err = absoluteSource(r.From)
			}
			if err != nil {
				return err
			}

			if published {
				if err := nixosImages().complete(c.Context(), tag, &r); err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%s: from %s\n", r.Name, r.From)
			}
			_, err = changeImage(c, daemon, api.ImagesPath, r)
			return err
		}}
	c.Flags().StringVar(&r.Arch, "arch", "", "x86_64 or aarch64, where the source has both")
	c.Flags().StringVar(&r.From, "from", "", "where the image is: a path, a URL or a flake reference")
	c.Flags().StringVar(&tag, "release", "", "release of nixos-images, such as nixos-25.05 or nixos-unstable (default: the "+
		"newest stable one)")
	c.Flags().StringArrayVar(&digests, "sha256", nil, "digest that a file of the source must have: FILE=HEX, or "+
		"HEX for the only one")
	c.Flags().StringVar(&r.Kernel, "kernel", "", "kernel (bzImage or Image)")
	c.Flags().StringVar(&r.Initrd, "initrd", "", "initrd (cpio, compressed or not)")
	c.Flags().StringVar(&r.Cmdline, "cmdline", "", "kernel command line, with the init= of this image")
	choiceFlag(c, choiceOf("kernel_params"), &r.KernelParams)
	return c
}

// parseDigests reads the values of --sha256: digests by file name.
func parseDigests(flags []string) (map[string]string, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	all := map[string]string{}
	for _, f := range flags {
		name, digest, err := images.ParseDigest(f)
		if err != nil {
			return nil, err
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("--sha256: two digests for the same file %q", name)
		}
		all[name] = digest
	}

	return all, nil
}

// absoluteSource makes a path, or the path in a flake reference, absolute, since the server runs in another folder.
func absoluteSource(from string) (string, error) {
	if strings.Contains(from, "://") {
		return from, nil
	}
	if _, err := os.Stat(from); err == nil {
		return filepath.Abs(from)
	}

	scheme := ""
	if rest, is := strings.CutPrefix(from, "path:"); is {
		scheme, from = "path:", rest
	}
	flake, attr, found := strings.Cut(from, "#")
	_, err := os.Stat(flake)
	switch {
	case err != nil && flake != "" && (found || strings.Contains(flake, ":")): // not a path
		return scheme + from, nil
	case found:
		flake, err = filepath.Abs(flake)
		return scheme + flake + "#" + attr, err
	}

	flake, err = filepath.Abs(flake)
	return scheme + flake, err
}

// changeImage asks the server to add or update an image, and shows the progress.
func changeImage(c *cobra.Command, daemon *api.Client, path string, r any) (last api.ImageProgress, err error) {
	body, err := daemon.Do(c.Context(), http.MethodPost, path, r)
	if err != nil {
		return last, err
	}

	last, err = showProgress(c.Context(), c.ErrOrStderr(), body)
	switch {
	case err != nil:
		return last, err
	case last.Error != "":
		return last, errors.New(last.Error)
	case last.Image == nil:
		return last, errors.New("the server stopped meanwhile; give the command again")
	}

	for _, w := range last.Warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	printImage(c.OutOrStdout(), *last.Image)
	return last, nil
}

// showProgress shows progress in one line on a terminal; elsewhere it prints a line when something new begins. It
// returns the last message of the server.
func showProgress(ctx context.Context, w io.Writer, body io.ReadCloser) (last api.ImageProgress, err error) {
	terminal := terminalOf(w) != nil
	var doing string
	var begun transferRate
	err = api.Lines(ctx, body, func(p api.ImageProgress) bool {
		last = p
		if p.Doing != doing && p.Doing != "" {
			doing, begun = p.Doing, transferRate{at: time.Now(), done: p.Done}
			if !terminal {
				fmt.Fprintln(w, doing)
			}
		}

		if terminal && p.Doing != "" {
			fmt.Fprintf(w, "%s%s  %s", clearLine, p.Doing, amount(begun, p.Done, p.Total))
		}
		return true
	})
	if terminal {
		fmt.Fprint(w, clearLine)
	}
	return last, err
}

// amount says how much is done, how fast it goes, and how long it will take.
func amount(r transferRate, done, total int64) string {
	s := fmt.Sprintf("%.1f MB", float64(done)/1e6)
	if total > 0 {
		s = fmt.Sprintf("%.1f of %.1f MB", float64(done)/1e6, float64(total)/1e6)
	}
	perSecond, left := r.pace(done, total)
	if perSecond > 0 {
		s += fmt.Sprintf("  %.1f MB/s", perSecond/1e6)
	}
	if left > 0 {
		s += fmt.Sprintf("  %v left", left)
	}
	return s
}

// printImage prints what an image is.
func printImage(w io.Writer, img images.Image) {
	fmt.Fprintf(w, "%s: %s, kernel %.1f MB, initrd %.1f MB", img.Name, img.Arch,
		float64(img.Kernel.Size)/1e6, float64(img.Initrd.Size)/1e6)
	if img.Checked != "" {
		fmt.Fprintf(w, ", checked by %s", img.Checked)
	}
	fmt.Fprintf(w, "\n  %s\n", img.BootCmdline(nil))
	if l := img.Look; l != nil && l.Error == "" {
		fmt.Fprintf(w, "  kernel %s, stage 1: %s, network drivers: %s\n", cmp.Or(l.Kernel, "of unknown version"),
			l.Stage1, cmp.Or(strings.Join(l.NICs, " "), "none of the common ones in the initrd"))
	}
}
