package api

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"provision/hosts"
)

func (s *Server) hostKey(c echo.Context) error {
	public, err := s.Hosts.Identity(c.Param("name"))
	return answerHostKey(c, public, err)
}

func (s *Server) makeHostKey(c echo.Context) error {
	public, err := s.Hosts.MakeIdentity(c.Param("name"))
	return answerHostKey(c, public, err)
}

// answerHostKey answers with a host's public key, or with an error.
func answerHostKey(c echo.Context, public string, err error) error {
	if err != nil {
		return err
	}
	recipient, err := hosts.AgeRecipient(public)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, HostKey{Name: c.Param("name"), HostKey: public, Age: recipient})
}

// escrow answers with the escrowed disk keys, encrypted to the operators. The request is a POST because it is recorded.
func (s *Server) escrow(c echo.Context) error {
	h, err := s.host(c)
	if err != nil {
		return err
	}
	all, err := s.Hosts.Reveal(h.Name, peer(c.Request().Context()))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, all)
}
