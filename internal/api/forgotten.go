package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"provision/hosts"
)

// Forgotten is a host that can be restored until the time Until.
type Forgotten struct {
	Name  string     `json:"name"`
	MACs  []string   `json:"macs"` // empty: it was never enrolled, and only its SSH key is kept
	Time  time.Time  `json:"forgotten"`
	Until time.Time  `json:"until"`
	By    string     `json:"by"`
	Kept  hosts.Loss `json:"kept"`
}

// RestoreRequest is the body of POST /v1/hosts/NAME/restore.
type RestoreRequest struct {
	// Forgotten chooses among several hosts that had the name, by the time when it was forgotten; zero: the last.
	Forgotten time.Time `json:"forgotten,omitzero"`
}

// loss answers what is lost if a host is purged.
func (s *Server) loss(c echo.Context) error {
	l, err := s.Hosts.Loss(c.Param("name"))
	if errors.Is(err, hosts.ErrNotFound) {
		_, err = s.host(c) // its error lists the existing hosts
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, l)
}

func (s *Server) forget(c echo.Context) (err error) {
	name, who := c.Param("name"), peer(c.Request().Context())
	purge := c.QueryParam("purge")
	switch purge {
	case "", "false":
		err = s.Hosts.Forget(name, who)
	case "true":
		err = s.Hosts.Purge(name)
	default:
		return fmt.Errorf("purge=%q: write true or false", purge)
	}
	if errors.Is(err, hosts.ErrNotFound) {
		_, err = s.host(c) // its error lists the existing hosts
	}
	if err != nil {
		return err
	}

	s.Log.Info("host forgotten", "host", name, "for ever", purge == "true", "by", who)
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) forgotten(c echo.Context) error {
	all, err := s.Hosts.Forgotten()
	if err != nil {
		return err
	}

	list := make([]Forgotten, 0, len(all))
	for _, f := range all {
		kept, err := s.Hosts.LossOf(f)
		if err != nil {
			return err
		}

		list = append(list, Forgotten{
			Name:  f.Host.Name,
			MACs:  array(f.Host.MACs),
			Time:  f.Time,
			Until: f.Until,
			By:    f.By,
			Kept:  kept,
		})
	}

	return c.JSON(http.StatusOK, list)
}

func (s *Server) restore(c echo.Context) error {
	var r RestoreRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	h, err := s.Hosts.Restore(c.Param("name"), r.Forgotten, peer(c.Request().Context()))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, statusOf(h))
}

// restorable says, for people, that a name is that of a forgotten host; empty if it is not.
func (s *Server) restorable(name string) string {
	all, err := s.Hosts.Forgotten()
	if err != nil {
		return "" // the text is only a hint
	}
	said := ""
	for _, f := range all {
		if f.Host.Name == name {
			said = fmt.Sprintf("; it was forgotten on %s, and `provision restore %s` takes it back until %s",
				f.Time.Format(time.DateOnly), name, f.Until.Format(time.DateOnly))
		}
	}
	return said
}
