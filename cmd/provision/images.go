package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"provision/images"
	"provision/internal/api"
)

const imagesHelp = `Manage the installer images that machines boot.

  provision images add nixos --from nixos-kexec-installer.tar.gz
  provision images list`

// imagesCommand is `provision images`.
func imagesCommand(daemon *api.Client) *cobra.Command {
	c := &cobra.Command{Use: "images", Short: "manage the installer images", Long: imagesHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errUsage{errors.New("images needs add, update, set, list, verify, remove, gc, media or firmware")}
		}}
	c.AddCommand(imagesAdd(daemon), imagesUpdate(daemon), imagesSet(daemon), imagesList(daemon), imagesGC(daemon),
		imagesMedia(daemon), firmwareCommand(daemon),
		&cobra.Command{Use: "verify NAME", Short: "read an image back and compare its digests", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				if err := daemon.Call(c.Context(), http.MethodPost, api.ImagePath(args[0])+"/verify", nil, nil); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is as it was added.\n", args[0])
				return nil
			}},
		&cobra.Command{Use: "remove NAME", Short: "remove an image that no host uses", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return daemon.Call(c.Context(), http.MethodDelete, api.ImagePath(args[0]), nil, nil)
			}})
	return c
}

func imagesList(daemon *api.Client) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "list the images", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []api.ImageInfo
			if err := daemon.Call(c.Context(), http.MethodGet, api.ImagesPath, nil, &all); err != nil {
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

func imagesUpdate(daemon *api.Client) *cobra.Command {
	var digests []string
	c := &cobra.Command{Use: "update NAME", Short: "fetch an image again from where it came", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			given, err := parseDigests(digests)
			if err != nil {
				return errUsage{err}
			}
			last, err := changeImage(c, daemon, api.ImagePath(args[0])+"/update", api.ImageUpdate{SHA256: given})
			if err == nil && !last.Changed {
				fmt.Fprintf(c.OutOrStdout(), "%s is the newest already.\n", args[0])
			}
			return err
		}}
	c.Flags().StringArrayVar(&digests, "sha256", nil, "digest of a file of the new image: FILE=HEX, or HEX for the "+
		"only one")
	return c
}

func imagesSet(daemon *api.Client) *cobra.Command {
	var r api.ImageSet
	c := &cobra.Command{Use: "set NAME --kernel-param " +
		"NAME[=VALUE]", Short: "set what is added to the kernel command line of an image", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := images.ParseKernelParams(r.KernelParams); err != nil {
				return errUsage{err}
			}
			if r.KernelParams == nil {
				return errUsage{errors.New("images set needs --kernel-param; --kernel-param '' takes all away")}
			}
			var img images.Image
			if err := daemon.Call(c.Context(), http.MethodPatch, api.ImagePath(args[0]), r, &img); err != nil {
				return err
			}

			printImage(c.OutOrStdout(), img)
			return nil
		}}
	choiceFlag(c, choiceOf("kernel_params"), &r.KernelParams)
	return c
}

func imagesGC(daemon *api.Client) *cobra.Command {
	return &cobra.Command{Use: "gc", Short: "remove what no image needs, and parts of downloads", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var freed images.Freed
			if err := daemon.Call(c.Context(), http.MethodPost, api.ImagesPath+"/gc", nil, &freed); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "freed %.1f MB in %d files\n", float64(freed.Bytes)/1e6, freed.Files)
			return nil
		}}
}
