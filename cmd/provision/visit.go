package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"provision/disko"
	"provision/hosts"
	"provision/installer"
	"provision/internal/api"
	"provision/internal/sshlogin"
)

// visit is a machine that is to be taken over, and how the operator and the server get into it.
type visit struct {
	daemon *api.Client
	login  *sshlogin.Login
	via    hosts.Via

	machine  *sshlogin.Machine
	found    *surroundings
	take     hosts.Takeover
	admitted bool   // the server may log in
	key      string // the server's
}

// byServer reports whether the server logs in to what runs there; else somebody switches the machine on.
func (v *visit) byServer() bool { return v.via != hosts.ViaManual && v.via != hosts.ViaWake }

// takeOver logs in, looks around, lets the server in, and enrolls the host.
// Nothing is changed on a machine that cannot be taken over.
func (v *visit) takeOver(c *cobra.Command, e *enrolment, yes bool) error {
	ctx := c.Context()
	var server api.Serving
	if err := v.daemon.Call(ctx, http.MethodGet, api.ServerPath, nil, &server); err != nil {
		return err
	}
	v.key = server.SSHKey
	if err := v.enter(ctx); err != nil {
		return err
	}
	defer v.machine.Close()
	for _, note := range v.machine.Notes {
		fmt.Fprintf(c.ErrOrStderr(), "Note: %s.\n", note)
	}
	if err := v.check(ctx); err != nil {
		return fmt.Errorf("take over %s: %w", v.machine.Name(), err)
	}
	v.tell(c)
	s, err := v.enroll(c, e, yes)
	if err != nil {
		return err
	}
	how := "The server may log in there by root's authorized keys."
	if v.admitted {
		how = "The server's key gets in there already; nothing was changed."
	}
	fmt.Fprintf(c.OutOrStdout(), "%s\n%s. The server goes on now; follow it with: provision watch %s\n", how, permission(s), s.Name)
	return nil
}

// tell says what was found.
func (v *visit) tell(c *cobra.Command) {
	what := fmt.Sprintf("%s on %s", v.found.system(), v.found.arch)
	if v.found.installer() {
		what += ", an installer that goes on as it is"
	}
	fmt.Fprintf(c.OutOrStdout(), "%s runs %s. Its host key is %s, %s.\n", v.machine.Name(), what, ssh.FingerprintSHA256(v.machine.HostKey), v.machine.How)
}

// enter gets into the machine: the operator, or else the server, whose key may be there already. A password is asked
// for only where neither has a key that is let in.
func (v *visit) enter(ctx context.Context) (err error) {
	v.machine, err = v.login.Connect(ctx, false)
	var refused *sshlogin.Refused
	if errors.As(err, &refused) {
		v.machine = &refused.Machine
		v.take.HostKey = authorized(v.machine.HostKey)
		if reached, _ := v.reach(ctx); reached.Admitted {
			return nil
		}
		if v.login.Ask == nil {
			return err
		}
		v.machine, err = v.login.Connect(ctx, true)
	}
	if err != nil {
		return err
	}
	v.take.HostKey = authorized(v.machine.HostKey)
	out, err := v.script(ctx, nil, installer.LookAround, "")
	if err != nil {
		v.machine.Close()
		return fmt.Errorf("look around on %s: %w", v.machine.Name(), err)
	}
	v.found = readSurroundings(out)
	return nil
}

func authorized(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}

// check refuses a machine that cannot be taken over, or that the server does not reach where it has to.
func (v *visit) check(ctx context.Context) error {
	v.take.Installer = v.found.installer()
	reached, why := v.reach(ctx)
	switch {
	case reached.Proved:
	case v.byServer():
		return v.unreached(why)
	default:
		all := v.addresses(ctx)
		if len(all) == 0 {
			return errors.New("its address is not known")
		}
		v.take.Address, v.take.Port = all[0].Addr().String(), int(all[0].Port())
	}
	if err := v.found.usable(v.machine.User, v.admitted); err != nil {
		return err
	}
	// What the operator sees behind a jump is not what the server will.
	if v.byKexec() && v.machine.Jump == "" {
		return v.found.forwarded(v.take)
	}
	return nil
}

// byKexec reports whether the machine's own kernel is to start the installer.
func (v *visit) byKexec() bool { return v.byServer() && v.via != hosts.ViaNetboot }

// reach has the server try the addresses that the machine may have. The right one is where the machine's host key is;
// why says what else was found.
func (v *visit) reach(ctx context.Context) (reached hosts.Reached, why []string) {
	for _, at := range v.addresses(ctx) {
		take := v.take
		take.Address, take.Port = at.Addr().String(), int(at.Port())
		if err := v.daemon.Call(ctx, http.MethodPost, api.ReachPath, take, &reached); err != nil {
			why = append(why, err.Error())
			continue
		}
		if !reached.Proved {
			why = append(why, reached.Why)
			continue
		}
		v.take, v.admitted = take, reached.Admitted
		if reached.Admitted && v.found == nil {
			v.found = readSurroundings(reached.Surroundings)
		}
		return reached, nil
	}
	return hosts.Reached{}, why
}

// addresses are where the machine may be: where it was reached from here, or, behind a jump, what it is called and
// what it says itself.
func (v *visit) addresses(ctx context.Context) []netip.AddrPort {
	if v.machine.Address.IsValid() {
		return []netip.AddrPort{v.machine.Address}
	}
	var all []netip.AddrPort
	add := func(a netip.Addr, port uint16) {
		const most = 8
		if at := netip.AddrPortFrom(a.Unmap(), port); len(all) < most && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	names, err := net.DefaultResolver.LookupNetIP(ctx, "ip", v.machine.Host)
	if err == nil { // else it has a name that only the jump knows
		for _, a := range names {
			add(a, uint16(v.machine.Port))
		}
	}
	if v.found != nil && v.found.here.IsValid() {
		port := v.found.here.Port()
		add(v.found.here.Addr(), port)
		for _, a := range slices.SortedFunc(maps.Keys(v.found.addrs), netip.Addr.Compare) {
			if a.IsGlobalUnicast() {
				add(a, port)
			}
		}
	}
	return all
}

// unreached says that the server has no way to the machine.
func (v *visit) unreached(why []string) error {
	said := strings.Join(why, "; ")
	if v.machine.Jump != "" {
		return fmt.Errorf("you reach it through %s, and the server itself does not (%s): the installer would start and nobody would come. "+
			"Run a server in its network, or give the server a way there, such as a VPN or a forwarded port", v.machine.Jump, said)
	}
	return fmt.Errorf("it is reached from here, and not by the server (%s): the installer would start and nobody would come. "+
		"Is there a firewall in between?", said)
}

// enroll shows what the install will do, and enrolls the host once that is confirmed and the server is let in. If that
// fails, the server's key is taken out again.
func (v *visit) enroll(c *cobra.Command, e *enrolment, yes bool) (s api.Status, err error) {
	ctx := c.Context()
	q := newQuestion(c, v.daemon, e.request.Name, yes)
	e.request.Facts, q.unseen = v.disks(ctx)
	if ctx.Err() != nil {
		return s, ctx.Err()
	}
	q.seen = q.unseen == nil
	own := v.found.here.Addr()
	if !own.IsValid() {
		own = netip.MustParseAddr(v.take.Address)
	}
	e.request.MACs, e.request.Arch = v.found.macs(own), v.found.arch
	e.request.Take = &v.take
	added := false
	q.before = func() error {
		if !v.admitted && !added {
			if added, err = v.letIn(ctx, v.key); err != nil {
				return err
			}
		}
		if err := v.checkAdmitted(ctx); err != nil {
			return fmt.Errorf("take over %s: %w", v.machine.Name(), err)
		}
		return nil
	}
	if err = q.put(api.HostsPath, e.agreed, &s); err != nil {
		if added {
			// The context may have ended, and this must be undone all the same.
			err = errors.Join(err, v.letOut(context.WithoutCancel(ctx), v.key))
		}
		return s, err
	}
	tell(c, v.daemon, s)
	return s, nil
}

// disks asks the machine for its disks, as disko.Facts. It changes nothing there.
func (v *visit) disks(ctx context.Context) (json.RawMessage, error) {
	if v.machine.Client == nil { // only the server's key gets in
		return nil, errors.New("you have no login there yourself")
	}
	const path = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin\n"
	out, err := v.script(ctx, v.found.root(), path+disko.Probe(nil)[2], "") // sh -c SCRIPT
	if err != nil {
		return nil, fmt.Errorf("list the machine's disks: %w", err)
	}
	facts, err := disko.ReadProbe([]byte(out))
	if err == nil {
		_, err = disko.ParseFacts(facts)
	}
	if err != nil {
		return nil, err
	}
	return facts, nil
}

// checkAdmitted has the server log in, as it will have to, and sees the machine's port with its eyes.
func (v *visit) checkAdmitted(ctx context.Context) error {
	if !v.byServer() {
		return nil
	}
	reached, why := v.reach(ctx)
	switch {
	case !reached.Proved:
		return v.unreached(why)
	case !reached.Admitted:
		return fmt.Errorf("the server's key is in root's authorized keys, and sshd does not let the server in (%s): "+
			"look for AuthorizedKeysFile, AllowUsers and PermitRootLogin in its sshd_config", reached.Why)
	case v.byKexec():
		return readSurroundings(reached.Surroundings).forwarded(v.take)
	}
	return nil
}
