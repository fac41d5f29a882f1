package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"provision/images"
	"provision/internal/web"
)

const imagesHelp = `Manage the installer images that machines boot.

  provision images add nixos --from nixos-kexec-installer.tar.gz
  provision images list`

func imagesCommand(api *client) *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "manage the installer images", Long: imagesHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errUsage{errors.New("images needs add, update, set, list, verify, remove, gc, media or firmware")}
		}}
	c.AddCommand(imagesAdd(api), imagesUpdate(api), imagesSet(api), imagesList(api), imagesGC(api), imagesMedia(api), firmwareCommand(api),
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

func imagesList(api *client) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "list the images", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []web.ImageInfo
			if err := api.call(c.Context(), http.MethodGet, "/v1/images", nil, &all); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "No image yet: provision images add NAME --from SOURCE")
				return nil
			}
			t := table(c.OutOrStdout(), "NAME", "ARCH", "SIZE", "ADDED", "HOSTS", "FROM")
			for _, img := range all {
				t.row(img.Name, img.Arch, fmt.Sprintf("%.1f MB", float64(img.Kernel.Size+img.Initrd.Size)/1e6), ago(img.Added),
					cmp.Or(strings.Join(img.Hosts, ","), "-"), cmp.Or(img.From, "single files"))
			}
			return t.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func imagesUpdate(api *client) *cobra.Command {
	var digests []string
	c := &cobra.Command{Use: "update NAME", Short: "fetch an image again from where it came", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			given, err := parseDigests(digests)
			if err != nil {
				return errUsage{err}
			}
			last, err := changeImage(c, api, imagePath(args[0])+"/update", web.ImageUpdate{SHA256: given})
			if err == nil && !last.Changed {
				fmt.Fprintf(c.OutOrStdout(), "%s is the newest already.\n", args[0])
			}
			return err
		}}
	c.Flags().StringArrayVar(&digests, "sha256", nil, "digest of a file of the new image: FILE=HEX, or HEX for the only one")
	return c
}

func imagesSet(api *client) *cobra.Command {
	var r web.ImageSet
	c := &cobra.Command{Use: "set NAME --kernel-param NAME[=VALUE]", Short: "set what is added to the kernel command line of an image", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := images.ParseKernelParams(r.KernelParams); err != nil {
				return errUsage{err}
			}
			if r.KernelParams == nil {
				return errUsage{errors.New("images set needs --kernel-param; --kernel-param '' takes all away")}
			}
			var img images.Image
			if err := api.call(c.Context(), http.MethodPatch, imagePath(args[0]), r, &img); err != nil {
				return err
			}
			printImage(c.OutOrStdout(), img)
			return nil
		}}
	choiceFlag(c, choiceOf("kernel_params"), &r.KernelParams)
	return c
}

func imagesGC(api *client) *cobra.Command {
	return &cobra.Command{Use: "gc", Short: "remove what no image needs, and parts of downloads", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var freed images.Freed
			if err := api.call(c.Context(), http.MethodPost, "/v1/images/gc", nil, &freed); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "freed %.1f MB in %d files\n", float64(freed.Bytes)/1e6, freed.Files)
			return nil
		}}
}
