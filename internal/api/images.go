package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"provision/images"
)

func (s *Server) listImages(c echo.Context) error {
	all, err := s.Images.List()
	if err != nil {
		return err
	}
	list := make([]ImageInfo, 0, len(all))
	for _, img := range all {
		users, err := s.imageUsers(img.Name)
		if err != nil {
			return err
		}
		list = append(list, ImageInfo{img, array(users)})
	}

	return c.JSON(http.StatusOK, list)
}

// imageUsers returns the names of the hosts that are enrolled with an image.
func (s *Server) imageUsers(image string) ([]string, error) {
	all, err := s.Hosts.List()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, h := range all {
		if h.Image == image {
			users = append(users, h.Name)
		}
	}
	return users, nil
}

func (s *Server) addImage(c echo.Context) error {
	var r ImageRequest
	if err := bind(c, &r); err != nil {
		return err
	}

	var arch images.Arch // empty: that of the kernel
	if r.Arch != "" {
		var err error
		if arch, err = images.ParseArch(r.Arch); err != nil {
			return err
		}
	}

	if _, err := images.ParseKernelParams(r.KernelParams); err != nil {
		return err
	}

	return s.streamImage(c, func(ctx context.Context,
		progress func(images.Progress)) (img images.Image, changed bool, err error) {
		defer func() {
			if err == nil && len(r.KernelParams) > 0 {
				img, err = s.Images.SetKernelParams(r.Name, r.KernelParams)
			}
		}()
		if r.From != "" {
			img, err = s.Images.From(ctx, images.Request{Name: r.Name, Arch: arch, From: r.From, SHA256: r.SHA256}, progress)
			return img, true, err
		}
		src := images.Source{Kernel: r.Kernel, Initrd: r.Initrd, Cmdline: r.Cmdline}
		img, err = s.Images.Add(ctx, r.Name, arch, src, func(done, total int64) {
			progress(images.Progress{Doing: "storing", Done: done, Total: total})
		})
		return img, true, err
	})
}

// streamImage streams ImageProgress while add runs. The last line has the image or the error.
func (s *Server) streamImage(c echo.Context, add func(context.Context, func(images.Progress)) (img images.Image,
	changed bool, err error)) error {
	enc := json.NewEncoder(c.Response())
	var told time.Time
	var doing string
	progress := func(p images.Progress) {
		if now := time.Now(); now.Sub(told) > 200*time.Millisecond || p.Doing != doing {
			told, doing = now, p.Doing
			enc.Encode(ImageProgress{Doing: p.Doing, Done: p.Done, Total: p.Total}) // a client that left is noticed at the end
			c.Response().Flush()
		}
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/x-ndjson")
	img, changed, err := add(c.Request().Context(), progress)
	if err != nil {
		return enc.Encode(ImageProgress{Error: answerText(err)})
	}

	s.Log.Info("image added", "changed", changed, "name", img.Name, "arch", img.Arch, "bytes", img.Kernel.Size+img.Initrd.Size)
	return enc.Encode(ImageProgress{Image: &img, Changed: changed, Warnings: img.Warnings()})
}

func (s *Server) verifyImage(c echo.Context) error {
	if err := s.Images.Verify(c.Request().Context(), c.Param("name")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) updateImage(c echo.Context) error {
	var r ImageUpdate
	if err := bind(c, &r); err != nil {
		return err
	}
	name := c.Param("name")
	if _, err := s.Images.Get(name); err != nil {
		return err
	}
	return s.streamImage(c, func(ctx context.Context, progress func(images.Progress)) (images.Image, bool, error) {
		return s.Images.Update(ctx, name, r.SHA256, progress)
	})
}

// ImageSet is the body of PATCH /v1/images/NAME.
type ImageSet struct {
	KernelParams []string `json:"kernel_params"` // see images.ParseKernelParams; one empty element: none
}

func (s *Server) setImage(c echo.Context) error {
	var r ImageSet
	if err := bind(c, &r); err != nil {
		return err
	}
	if r.KernelParams == nil {
		return errors.New("nothing is said to be changed: give kernel_params")
	}
	img, err := s.Images.SetKernelParams(c.Param("name"), r.KernelParams)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, img)
}

func (s *Server) collectImages(c echo.Context) error {
	freed, err := s.Images.GC()
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, freed)
}

func (s *Server) removeImage(c echo.Context) error {
	users, err := s.imageUsers(c.Param("name"))
	if err != nil {
		return err
	}
	if err := s.Images.Remove(c.Param("name"), users); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
