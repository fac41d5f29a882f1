package web

import (
	"context"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
)

// SetRequest is the body of PATCH /v1/hosts/NAME. What is left out stays as it is, and what is empty becomes
// the default.
type SetRequest struct {
	// MACs are the host's from now on; or all have a sign, and are added (+) or taken away (-).
	MACs       []string `json:"macs,omitempty"`
	Image      *string  `json:"image,omitempty"` // empty: the only one for the architecture
	Board      *string  `json:"board,omitempty"` // empty or auto: what the machine is recognised as
	Serial     *string  `json:"serial,omitempty"`
	Address    *string  `json:"address,omitempty"`
	BootMethod *string  `json:"boot_method,omitempty"`
	BootOrder  *string  `json:"boot_order,omitempty"` // of the next install
	// KernelParams are all that are added to the image's command line; a single empty one: none.
	KernelParams []string `json:"kernel_params,omitempty"`
}

// SetAnswer is how the host stands, and what is different.
type SetAnswer struct {
	Status
	Changed []string `json:"changed"`         // in words; none: it was so already
	Notes   []string `json:"notes,omitempty"` // what follows, for the operator
}

// set changes what needs no decision to erase anything.
func (s *Server) set(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	var r SetRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	change, err := s.change(c.Request().Context(), h, r)
	if err != nil {
		return err
	}
	done, err := s.Hosts.Set(h.Name, change, peer(c.Request().Context()))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, SetAnswer{status(done.Host), array(done.What), done.Notes})
}

// change checks a request by the rules of an enrolment.
func (s *Server) change(ctx context.Context, h hosts.Host, r SetRequest) (change hosts.Change, err error) {
	change = hosts.Change{MACs: r.MACs, Serial: r.Serial, Address: r.Address}
	if r.Address != nil {
		if err := s.addressFree(h.Name, *r.Address, h.MACs); err != nil {
			return change, err
		}
	}
	if r.BootMethod != nil {
		change.Method = new(hosts.Method)
		if *r.BootMethod != "" {
			if *change.Method, err = hosts.ParseMethod(*r.BootMethod); err != nil {
				return change, err
			}
		}
	}
	if r.BootOrder != nil {
		order, err := hosts.ParseBootOrder(*r.BootOrder)
		if err != nil {
			return change, err
		}
		change.BootOrder = &order
	}
	if r.Board != nil {
		board, err := s.chosenBoard(ctx, h, *r.Board)
		if err != nil {
			return change, err
		}
		change.Board = &board
	}
	image, params := h.Image, h.Options.KernelParams
	if r.Image != nil {
		if image, err = s.image(*r.Image, images.Arch(h.Arch)); err != nil {
			return change, err
		}
		change.Image = &image
	}
	if r.KernelParams != nil {
		params = r.KernelParams
	}
	if r.Image != nil || r.KernelParams != nil {
		if params, err = s.kernelParams(params, image); err != nil {
			return change, err
		}
		change.KernelParams = &params
	}
	return change, nil
}

// chosenBoard is the board that a host gets by its name, or what its machine was recognised as meanwhile.
func (s *Server) chosenBoard(ctx context.Context, h hosts.Host, name string) (string, error) {
	if name == "" || name == AutoBoard {
		for _, d := range s.Hosts.Discovered() {
			if d.Board != "" && slices.Contains(h.MACs, d.MAC) {
				return d.Board, nil
			}
		}
		return "", nil
	}
	found, err := s.Evaluate(ctx, h.Flake, h.Name, h.Options)
	if err == nil {
		err = s.board(name, &h, found.Layout)
	}
	return h.Board, err
}

// kernelParams checks what is added to the command line of an image.
func (s *Server) kernelParams(params []string, image string) ([]string, error) {
	params, err := images.ParseKernelParams(params)
	if err != nil || len(params) == 0 {
		return nil, err
	}
	img, err := s.Images.Get(image)
	if err != nil {
		return nil, err
	}
	return params, img.Fits(params)
}
