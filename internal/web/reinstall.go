package web

import (
	"cmp"
	"net/http"

	"github.com/labstack/echo/v4"

	"provision/hosts"
)

// reinstall permits that a host is erased and installed again, as it was
// enrolled but for what the request says.
func (s *Server) reinstall(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	var r EnrollRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	h, plan, err := s.permit(c.Request().Context(), as(h, r), s.Hosts.CheckReinstall, func(again hosts.Host, secrets map[string][]byte) (hosts.Host, error) {
		return s.Hosts.Reinstall(again, r.Permit, secrets, r.NewIdentity)
	})
	if err != nil {
		return err
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	st := status(h)
	st.Warnings = plan.Warnings
	return c.JSON(http.StatusCreated, st)
}

// as is the request with what it leaves out as the host has it, but for a system that was built
// beforehand: a host is installed again from the flake as it is now.
func as(h hosts.Host, r EnrollRequest) EnrollRequest {
	o := h.Options
	r.Name = h.Name
	if r.MACs == nil {
		r.MACs = h.MACs
	}
	r.Image = cmp.Or(r.Image, h.Image) // its board is looked up
	r.Address, r.ExtraFiles = cmp.Or(r.Address, o.Address), cmp.Or(r.ExtraFiles, o.ExtraFiles)
	r.BootMethod, r.Disko = cmp.Or(r.BootMethod, o.Method.String()), cmp.Or(r.Disko, string(o.Disko))
	r.TPM2, r.Layout = cmp.Or(r.TPM2, o.TPM2), cmp.Or(r.Layout, o.Layout)
	r.BuildOn, r.TargetSubstitutes = cmp.Or(r.BuildOn, string(o.BuildOn)), r.TargetSubstitutes || o.TargetSubstitutes
	r.Proof = cmp.Or(r.Proof, string(o.Proof))
	r.CopyOver, r.BootOrder = cmp.Or(r.CopyOver, string(o.CopyOver)), cmp.Or(r.BootOrder, string(o.BootOrder))
	r.GenerateHardware = cmp.Or(r.GenerateHardware, o.Hardware.String())
	if r.Disks == nil {
		r.Disks = o.Disks
	}
	if r.PiConfig == nil {
		r.PiConfig = o.PiConfig
	}
	if r.KernelParams == nil {
		r.KernelParams = o.KernelParams
	}
	return withSecrets(o, r)
}

// look has the host's machine asked for its disks, if it is up.
func (s *Server) look(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	if err := s.Look(c.Request().Context(), h.Name); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// reach says whether the server itself gets into a machine, before anything is changed there.
func (s *Server) reach(c echo.Context) error {
	var take hosts.Takeover
	if err := bind(c, &take); err != nil {
		return err
	}
	if err := take.Check(); err != nil {
		return err
	}
	found, err := s.Reach(c.Request().Context(), take)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, found)
}
