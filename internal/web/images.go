package web

import (
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

// addImage streams ImageProgress; the last line holds the image or the error.
func (s *Server) addImage(c echo.Context) error {
	var r ImageRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	arch, err := images.ParseArch(r.Arch)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(c.Response())
	var told time.Time
	progress := func(done, total int64) {
		if now := time.Now(); now.Sub(told) > 200*time.Millisecond {
			told = now
			enc.Encode(ImageProgress{Done: done, Total: total}) // a reader that left is noticed at the end
			c.Response().Flush()
		}
	}
	c.Response().Header().Set(echo.HeaderContentType, "application/x-ndjson")
	var img images.Image
	ctx := c.Request().Context()
	if r.From != "" {
		img, err = s.Images.From(ctx, r.Name, arch, r.From, progress)
	} else {
		img, err = s.Images.Add(ctx, r.Name, arch, images.Source{Kernel: r.Kernel, Initrd: r.Initrd, Cmdline: r.Cmdline}, progress)
	}
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
