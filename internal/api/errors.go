package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"

	"github.com/labstack/echo/v4"

	"provision/hosts"
	"provision/images"
	"provision/internal/enroll"
)

// codes maps errors to HTTP status codes; the first match counts. An error without a match is a fault of the request or
// of the flake: 400.
var codes = []struct {
	code int
	is   func(error) bool
}{
	{http.StatusConflict, isA[*enroll.Outdated]},
	{http.StatusNotFound, one(hosts.ErrNotFound, images.ErrNotFound)},
	{http.StatusConflict, one(hosts.ErrRefused)},
	{http.StatusInternalServerError, isA[*hosts.Fault]},
	{http.StatusInternalServerError, one(syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE,
		syscall.ENFILE, syscall.ENOMEM)},
}

// isA reports whether an error in the chain has type T.
func isA[T error](err error) bool { return errors.As(err, new(T)) }

// one returns a function that reports whether an error is one of these.
func one(all ...error) func(error) bool {
	return func(err error) bool {
		return slices.ContainsFunc(all, func(target error) bool { return errors.Is(err, target) })
	}
}

// code returns the HTTP status for an error.
func code(err error) int {
	var he *echo.HTTPError
	if errors.As(err, &he) {
		return he.Code
	}
	for _, c := range codes {
		if c.is(err) {
			return c.code
		}
	}
	return http.StatusBadRequest
}

// fail answers a request with an error.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status := code(err)
	failure := Failure{}
	var old *enroll.Outdated
	if errors.As(err, &old) {
		failure.Plan = old.Plan
	}

	var he *echo.HTTPError
	if errors.As(err, &he) {
		err = fmt.Errorf("%v", he.Message)
	}

	failure.Error = answerText(err)
	if status == http.StatusInternalServerError {
		s.Log.Error("answer the operator", "path", c.Request().URL.Path, "err", failure.Error)
	}
	if err := c.JSON(status, failure); err != nil {
		s.Log.Debug("answer the operator", "err", err)
	}
}
