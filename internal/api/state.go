package api

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// SetAsideRequest is the body of POST /v1/state/set-aside.
type SetAsideRequest struct {
	Record string `json:"record"` // its key in the store
}

// backup sends a copy of the store. The client has to check that the copy is complete, as an answer may be cut off.
func (s *Server) backup(c echo.Context) error {
	c.Response().Header().Set(echo.HeaderContentType, echo.MIMEOctetStream)
	_, err := s.Store.WriteTo(c.Response())
	return err
}

func (s *Server) setAside(c echo.Context) error {
	var r SetAsideRequest
	if err := bind(c, &r); err != nil {
		return err
	}
	who := peer(c.Request().Context())
	if err := s.Hosts.SetAside(r.Record, who); err != nil {
		return err
	}
	s.Log.Info("damaged record set aside", "record", r.Record, "by", who)
	return c.NoContent(http.StatusNoContent)
}
