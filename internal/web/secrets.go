package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"

	"github.com/labstack/echo/v4"
	"golang.org/x/sys/unix"

	"provision/hosts"
)

// addSecrets puts the request's own identity, secret files, owners and escrow
// into the host and its secrets.
func addSecrets(r EnrollRequest, h *hosts.Host, secrets map[string][]byte) error {
	if r.HostKey != nil {
		public, private, err := hosts.ParseHostKey(r.HostKey)
		if err != nil {
			return fmt.Errorf("host key: %w", err)
		}
		if extra := secrets[hosts.SecretHostKey]; extra != nil {
			if other, _, err := hosts.ParseHostKey(extra); err != nil || other != public {
				return errors.New("--host-key is another key than etc/ssh/ssh_host_ed25519_key in --extra-files: give one of them")
			}
		}
		secrets[hosts.SecretHostKey] = private
	}
	for _, f := range r.Secrets {
		switch {
		case f.Content == nil: // the server has it
			h.Options.Secrets = append(h.Options.Secrets, f.SecretFile)
			continue
		case len(f.Content) == 0:
			return fmt.Errorf("secret %s is empty", f.Path)
		case len(f.Content) > hosts.MaxSecret:
			return fmt.Errorf("secret %s has %d bytes; %d are the most (larger files go with --extra-files)", f.Path, len(f.Content), hosts.MaxSecret)
		}
		h.Options.Secrets = append(h.Options.Secrets, f.SecretFile)
		secrets[hosts.SecretContent(f.Path)] = bytes.Clone(f.Content)
	}
	h.Options.EscrowTo, h.Options.KeepSecrets, h.Options.Chown = r.EscrowTo, r.KeepSecrets, r.Chown
	return nil
}

func (s *Server) hostKey(c echo.Context) error {
	public, err := s.Hosts.Identity(c.Param("name"))
	return answerHostKey(c, public, err)
}

func (s *Server) makeHostKey(c echo.Context) error {
	public, err := s.Hosts.MakeIdentity(c.Param("name"))
	return answerHostKey(c, public, err)
}

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

// escrow hands out the disk keys that are in escrow, encrypted to the
// operators. It is a POST, as it is recorded.
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

// withSecrets is a request to install a host again, with what it leaves out of
// secrets as the host has it.
func withSecrets(o hosts.Options, r EnrollRequest) EnrollRequest {
	if r.EscrowTo == nil {
		r.EscrowTo, r.again = o.EscrowTo, true
	}
	if r.Chown == nil {
		r.Chown = o.Chown
	}
	r.KeepSecrets = r.KeepSecrets || o.KeepSecrets
	for _, f := range o.Secrets {
		if !slices.ContainsFunc(r.Secrets, func(given Secret) bool { return given.Path == f.Path }) {
			r.Secrets = append(r.Secrets, Secret{SecretFile: f})
		}
	}
	return r
}

type peerKey struct{}

// withPeer notes who is at the other end of the socket: the kernel says so.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || cred == nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

// peer is who asks, for people.
func peer(ctx context.Context) string {
	cred, ok := ctx.Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return "somebody whom the kernel does not name"
	}
	name := "a user without a name"
	if u, err := user.LookupId(strconv.FormatUint(uint64(cred.Uid), 10)); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s (uid %d, gid %d, pid %d)", name, cred.Uid, cred.Gid, cred.Pid)
}
