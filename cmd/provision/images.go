package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"provision/images"
)

const imagesHelp = `Manage the installer images that machines boot.

  provision images add nixos --from nixos-kexec-installer.tar.gz
  provision images list`

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
				fmt.Fprintln(c.OutOrStdout(), "No image yet: provision images add NAME --from SOURCE")
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
