package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/enroll"
)

// bind decodes the body of a request. Unknown fields are errors.
func bind(c echo.Context, to any) error {
	dec := json.NewDecoder(c.Request().Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(to)
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax), errors.As(err, &wrongType), strings.HasPrefix(err.Error(), "json: "),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("read the request: %w", err)
	}
	return err // the message is about a choice, and complete as it is
}

// hostAnd returns the host that the path names, and decodes the body into request.
func (s *Server) hostAnd(c echo.Context, request any) (hosts.Host, error) {
	h, err := s.host(c)
	if err == nil {
		err = bind(c, request)
	}
	return h, err
}

// enroll issues a permit for a machine to become a host.
func (s *Server) enroll(c echo.Context) error {
	var r enroll.Request
	if err := bind(c, &r); err != nil {
		return err
	}
	h, plan, err := s.Enroll.Enroll(c.Request().Context(), r)
	if err != nil {
		return err
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	st := statusOf(h)
	st.Warnings = plan.Warnings
	if programs, err := images.Programs(s.Programs); err == nil { // else serve would not have started
		st.Slow = s.slow(h, s.Traces.List(), programs)
	}
	return c.JSON(http.StatusCreated, st)
}

// reinstall issues a permit to erase a host and install it again.
func (s *Server) reinstall(c echo.Context) error {
	var r enroll.Request
	h, err := s.hostAnd(c, &r)
	if err != nil {
		return err
	}
	r.Name = h.Name
	h, plan, err := s.Enroll.Reinstall(c.Request().Context(), r)
	if err != nil {
		return err
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	st := statusOf(h)
	st.Warnings = plan.Warnings
	return c.JSON(http.StatusCreated, st)
}

// plan answers what an install of the host would do.
func (s *Server) plan(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	p, err := s.Enroll.Plan(c.Request().Context(), h.Name)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, p)
}

// retry lets a failed install continue.
func (s *Server) retry(c echo.Context) error {
	var r enroll.RetryRequest
	h, err := s.hostAnd(c, &r)
	if err != nil {
		return err
	}
	h, plan, err := s.Enroll.Retry(c.Request().Context(), h.Name, r)
	if err != nil {
		return err
	}
	if r.PlanOnly {
		return c.JSON(http.StatusOK, plan)
	}
	return c.JSON(http.StatusOK, statusOf(h))
}

// SetAnswer is the status of the host after a change, and what changed.
type SetAnswer struct {
	Status
	Changed []string `json:"changed"`         // for people; empty: nothing, it was as requested already
	Notes   []string `json:"notes,omitempty"` // consequences that the operator should know
}

// set changes what needs no decision to erase anything.
func (s *Server) set(c echo.Context) error {
	var r enroll.SetRequest
	h, err := s.hostAnd(c, &r)
	if err != nil {
		return err
	}
	done, err := s.Enroll.Set(c.Request().Context(), h.Name, r, peer(c.Request().Context()))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, SetAnswer{statusOf(done.Host), array(done.What), done.Notes})
}

// look asks the host's machine for its disks, if it is running.
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

// reach answers whether the server itself can log in to a machine, before anything is changed there.
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
