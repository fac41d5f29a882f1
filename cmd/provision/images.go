package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"provision/images"
	"provision/internal/web"
)

const imagesHelp = `Manage the installer images that machines boot.

  provision images add nixos --arch x86_64 --from ~/netboot
  provision images add nixos --arch x86_64 --from nixos-kexec-installer.tar.gz
  provision images add own --arch x86_64 --kernel bzImage --initrd initrd --cmdline "init=/nix/store/...-nixos/init"`

func imagesCommand(api *client) *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "manage the installer images", Long: imagesHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errUsage{errors.New("images needs add, list, media, verify, remove or firmware")}
		}}
	c.AddCommand(imagesAdd(api), imagesList(api), imagesMedia(api), firmwareCommand(api),
		&cobra.Command{Use: "verify NAME", Short: "read an image back and compare its digests", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				if err := api.call(c.Context(), http.MethodPost, imagePath(args[0])+"/verify", nil, nil); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is as it was added.\n", args[0])
				return nil
			}},
		&cobra.Command{Use: "remove NAME", Short: "remove an image that no host uses", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return api.call(c.Context(), http.MethodDelete, imagePath(args[0]), nil, nil)
			}})
	return c
}

func imagePath(name string) string { return "/v1/images/" + url.PathEscape(name) }

func imagesAdd(api *client) *cobra.Command {
	var r web.ImageRequest
	c := &cobra.Command{Use: "add NAME --arch ARCH (--from DIR|TARBALL | --kernel FILE --initrd FILE [--cmdline TEXT])", Short: "add an image",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name = args[0]
			if r.Arch == "" {
				return errUsage{errors.New("images add needs --arch x86_64 or --arch aarch64")}
			}
			if (r.From == "") == (r.Kernel == "" && r.Initrd == "") || (r.From == "") && (r.Kernel == "" || r.Initrd == "") {
				return errUsage{errors.New("images add needs --from, or --kernel and --initrd")}
			}
			for _, p := range []*string{&r.From, &r.Kernel, &r.Initrd} {
				if *p == "" {
					continue
				}
				abs, err := filepath.Abs(*p)
				if err != nil {
					return err
				}
				*p = abs
			}
			return addImage(c, api, r)
		}}
	c.Flags().StringVar(&r.Arch, "arch", "", "x86_64 or aarch64")
	c.Flags().StringVar(&r.From, "from", "", "folder with netboot release files, or a kexec tarball of nixos-images")
	c.Flags().StringVar(&r.Kernel, "kernel", "", "kernel (bzImage or Image)")
	c.Flags().StringVar(&r.Initrd, "initrd", "", "initrd (cpio, compressed or not)")
	c.Flags().StringVar(&r.Cmdline, "cmdline", "", "kernel command line, with the init= of this image")
	return c
}

func addImage(c *cobra.Command, api *client, r web.ImageRequest) error {
	body, err := api.do(c.Context(), http.MethodPost, "/v1/images", r)
	if err != nil {
		return err
	}
	f, isFile := c.ErrOrStderr().(*os.File)
	bar := isFile && term.IsTerminal(int(f.Fd()))
	var last web.ImageProgress
	err = lines(c.Context(), body, func(p web.ImageProgress) bool {
		last = p
		if bar && p.Total > 0 {
			fmt.Fprintf(f, "\r\x1b[K%d of %d MB", p.Done/1e6, p.Total/1e6)
		}
		return true
	})
	if bar {
		fmt.Fprint(f, "\r\x1b[K")
	}
	switch {
	case err != nil:
		return err
	case last.Error != "":
		return errors.New(last.Error)
	case last.Image == nil:
		return errors.New("the server stopped while adding the image; add it again")
	}
	for _, w := range last.Warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	printImage(c, *last.Image)
	return nil
}

func printImage(c *cobra.Command, img images.Image) {
	fmt.Fprintf(c.OutOrStdout(), "%s: %s, kernel %.1f MB, initrd %.1f MB\n  %s\n", img.Name, img.Arch,
		float64(img.Kernel.Size)/1e6, float64(img.Initrd.Size)/1e6, img.Cmdline)
}

func imagesList(api *client) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "list the images", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []images.Image
			if err := api.call(c.Context(), http.MethodGet, "/v1/images", nil, &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "No image yet: provision images add NAME --arch x86_64 --from DIR")
				return nil
			}
			t := table(c.OutOrStdout(), "NAME", "ARCH", "SIZE", "ADDED", "KERNEL SHA256")
			for _, img := range all {
				t.row(img.Name, img.Arch, fmt.Sprintf("%.1f MB", float64(img.Kernel.Size+img.Initrd.Size)/1e6), ago(img.Added), img.Kernel.SHA256[:16])
			}
			return t.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
