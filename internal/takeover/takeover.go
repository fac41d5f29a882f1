// Package takeover gets an operator and the server into a machine that runs Linux, so that it can become an installer:
// it logs in, looks around, finds out how the server reaches the machine, and lets the server in. It changes nothing on
// a machine that cannot be taken over. It may import hosts, internal/sshlogin and internal/text.
package takeover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/sshlogin"
)

// Visit is a machine that is to be taken over, and how the operator and the server log in to it. The exported fields
// are set before Enter.
type Visit struct {
	Login *sshlogin.Login
	// Via is how the machine is made to boot its installer.
	Via hosts.Via
	// ServerKey is the public key with which the server logs in, in authorized_keys form.
	ServerKey string
	// LookAround is the shell script that prints what a machine is.
	LookAround string
	// Reach makes the server test whether it can log in to the machine.
	Reach func(context.Context, hosts.Takeover) (hosts.Reached, error)
	// Take is where the server reaches the machine. Its PostKexecPort comes from the operator; Enter and Check set the
	// rest.
	Take hosts.Takeover

	machine  *sshlogin.Machine
	found    *surroundings
	admitted bool // whether the server can log in
}

// Close ends the operator's session.
func (v *Visit) Close() { v.machine.Close() }

// Notes returns what the operator should know about the login, for people.
func (v *Visit) Notes() []string { return v.machine.Notes }

// Admitted reports whether the server can log in already.
func (v *Visit) Admitted() bool { return v.admitted }

// HasLogin reports whether the operator has a session. If not, only the server can log in.
func (v *Visit) HasLogin() bool { return v.machine.Client != nil }

// Name returns the machine's name, for people.
func (v *Visit) Name() string { return v.machine.Name() }

// Arch returns the machine's architecture, as uname prints it.
func (v *Visit) Arch() string { return v.found.arch }

// Words says, for people, what was found.
func (v *Visit) Words() string {
	what := fmt.Sprintf("%s on %s", v.found.system(), v.found.arch)
	if v.found.installer() {
		what += ", an installer that goes on as it is"
	}
	return fmt.Sprintf("%s runs %s. Its host key is %s, %s.",
		v.machine.Name(), what, ssh.FingerprintSHA256(v.machine.HostKey), v.machine.How)
}

// MACs returns the MACs of the machine's own network cards, with that of the card through which it was reached first.
func (v *Visit) MACs() []string {
	own := v.found.here.Addr()
	if !own.IsValid() {
		own = netip.MustParseAddr(v.Take.Address)
	}
	return v.found.macs(own)
}

// AsRoot runs a constant shell script on the machine as root, and returns its output.
func (v *Visit) AsRoot(ctx context.Context, command string) (string, error) {
	return v.script(ctx, v.found.root(), command, "")
}

// byServer reports whether the server has to log in to the running system; if not, somebody or something switches the
// machine on.
func (v *Visit) byServer() bool { return v.Via != hosts.ViaManual && v.Via != hosts.ViaWake }

// Enter logs in to the machine: as the operator or, if the operator has no key for it, by the server's key, which may
// be accepted already. It asks for a password only if neither has a key that is accepted.
func (v *Visit) Enter(ctx context.Context) (err error) {
	v.machine, err = v.Login.Connect(ctx, false)
	var refused *sshlogin.Refused
	if errors.As(err, &refused) {
		v.machine = &refused.Machine
		v.Take.HostKey = authorized(v.machine.HostKey)
		if reached, _ := v.reach(ctx); reached.Admitted {
			return nil
		}
		if v.Login.Ask == nil {
			return err
		}
		v.machine, err = v.Login.Connect(ctx, true)
	}
	if err != nil {
		return err
	}

	v.Take.HostKey = authorized(v.machine.HostKey)
	out, err := v.script(ctx, nil, v.LookAround, "")
	if err != nil {
		v.machine.Close()
		return fmt.Errorf("look around on %s: %w", v.machine.Name(), err)
	}

	v.found = readSurroundings(out)
	return nil
}

// authorized returns a key in authorized_keys form, without a newline.
func authorized(key ssh.PublicKey) string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}

// Check returns an error if the machine cannot be taken over, or if the server has to reach it but cannot.
func (v *Visit) Check(ctx context.Context) error {
	v.Take.Installer = v.found.installer()
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
		v.Take.Address, v.Take.Port = all[0].Addr().String(), int(all[0].Port())
	}

	if err := v.found.usable(v.machine.User, v.admitted); err != nil {
		return err
	}

	// Behind a jump host, the operator's connection does not show what the server's will.
	if v.byKexec() && v.machine.Jump == "" {
		return v.found.forwarded(v.Take)
	}
	return nil
}

// byKexec reports whether the machine's running kernel has to start the installer.
func (v *Visit) byKexec() bool { return v.byServer() && v.Via != hosts.ViaNetboot }

// reach makes the server try the addresses that the machine may have. The right one is where the machine's host key
// answers, and becomes Take. why lists what was found at the others.
func (v *Visit) reach(ctx context.Context) (_ hosts.Reached, why []string) {
	for _, at := range v.addresses(ctx) {
		take := v.Take
		take.Address, take.Port = at.Addr().String(), int(at.Port())
		reached, err := v.Reach(ctx, take)
		if err != nil {
			why = append(why, err.Error())
			continue
		}

		if !reached.Proved {
			why = append(why, reached.Why)
			continue
		}
		v.Take, v.admitted = take, reached.Admitted
		if reached.Admitted && v.found == nil {
			v.found = readSurroundings(reached.Surroundings)
		}
		return reached, nil
	}

	return hosts.Reached{}, why
}

// addresses returns where the machine may be reached: the address of the operator's connection or, behind a jump host,
// the addresses of its name and those that it reports itself.
func (v *Visit) addresses(ctx context.Context) []netip.AddrPort {
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
	if err == nil { // only the jump host may know the name
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

// unreached returns the error that the server cannot reach the machine.
func (v *Visit) unreached(why []string) error {
	said := strings.Join(why, "; ")
	if v.machine.Jump != "" {
		return fmt.Errorf("you reach it through %s, and the server itself does not (%s): "+
			"the installer would start and nobody would come. "+
			"Run a server in its network, or give the server a way there, such as a VPN or a forwarded port", v.machine.Jump, said)
	}
	return fmt.Errorf("it is reached from here, and not by the server (%s): the installer would start and nobody "+
		"would come. "+
		"Is there a firewall in between?", said)
}

// CheckAdmitted makes the server log in, as it will have to later, and checks the machine's port as the server sees it.
func (v *Visit) CheckAdmitted(ctx context.Context) error {
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
		return readSurroundings(reached.Surroundings).forwarded(v.Take)
	}

	return nil
}
