package web

import (
	"context"
	"encoding/json"
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
	return c.JSON(http.StatusOK, array(all))
}

func (s *Server) addImage(c echo.Context) error {
	var r ImageRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	var arch images.Arch // that of the kernel, if none is asked for
	if r.Arch != "" {
		var err error
		if arch, err = images.ParseArch(r.Arch); err != nil {
			return err
		}
	}
	return s.streamImage(c, func(ctx context.Context, progress func(images.Progress)) (images.Image, error) {
		if r.From != "" {
			return s.Images.From(ctx, images.Request{Name: r.Name, Arch: arch, From: r.From, SHA256: r.SHA256}, progress)
		}
		src := images.Source{Kernel: r.Kernel, Initrd: r.Initrd, Cmdline: r.Cmdline}
		return s.Images.Add(ctx, r.Name, arch, src, func(done, total int64) {
			progress(images.Progress{Doing: "storing", Done: done, Total: total})
		})
	})
}

// streamImage streams ImageProgress while add is at work; the last line holds the image or the error.
func (s *Server) streamImage(c echo.Context, add func(context.Context, func(images.Progress)) (images.Image, error)) error {
	enc := json.NewEncoder(c.Response())
	var told time.Time
	var doing string
	progress := func(p images.Progress) {
		if now := time.Now(); now.Sub(told) > 200*time.Millisecond || p.Doing != doing {
			told, doing = now, p.Doing
			enc.Encode(ImageProgress{Doing: p.Doing, Done: p.Done, Total: p.Total}) // a reader that left is noticed at the end
			c.Response().Flush()
		}
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/x-ndjson")
	img, err := add(c.Request().Context(), progress)
	if err != nil {
		return enc.Encode(ImageProgress{Error: err.Error()})
	}
	s.Log.Info("image added", "name", img.Name, "arch", img.Arch, "bytes", img.Kernel.Size+img.Initrd.Size)
	return enc.Encode(ImageProgress{Image: &img, Warnings: img.Warnings()})
}

func (s *Server) verifyImage(c echo.Context) error {
	if err := s.Images.Verify(c.Request().Context(), c.Param("name")); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) removeImage(c echo.Context) error {
	all, err := s.Hosts.List()
	if err != nil {
		return err
	}
	var users []string
	for _, h := range all {
		if h.Image == c.Param("name") {
			users = append(users, h.Name)
		}
	}
	if err := s.Images.Remove(c.Param("name"), users); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}
