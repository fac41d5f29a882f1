package installer

import (
	"strings"
	"testing"

	"provision/hosts"
)

// TestServerReaches: what the server finds at a machine before anybody has changed it.
func TestServerReaches(t *testing.T) {
	key, other := newSigner(t), newSigner(t)
	in := &Installer{signer: newSigner(t)}
	open, _ := sshServer(t, key, true)
	shut, _ := sshServer(t, key, false)
	for name, c := range map[string]struct {
		addr             string
		pinned           string
		port             int
		proved, admitted bool
		why              string
	}{
		"let in":      {addr: open, pinned: authorizedKey(key), proved: true, admitted: true},
		"not let in":  {addr: shut, pinned: authorizedKey(key), proved: true, why: "unable to authenticate"},
		"another key": {addr: open, pinned: authorizedKey(other), why: "has the host key SHA256:"},
		"nobody":      {addr: open, pinned: authorizedKey(key), port: 1, why: "connection refused"},
	} {
		r, err := in.Reach(t.Context(), hosts.Takeover{Address: c.addr, Port: c.port, HostKey: c.pinned})
		if err != nil || r.Proved != c.proved || r.Admitted != c.admitted || !strings.Contains(r.Why, c.why) || c.why == "" && r.Why != "" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if strings.Contains(r.Surroundings, "kernel Linux\n") != c.admitted {
			t.Errorf("%s: the machine says %q", name, r.Surroundings)
		}
	}
}

// TestPostKexecPort: the installer is looked for where its port is forwarded from.
func TestPostKexecPort(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaKexec, key, key, true, "case $1 in kexec-load) cat >/dev/null; esac")
	x.host.Permit.Take.PostKexecPort = 2299
	if _, err := x.bringUp(t.Context(), x.host); err != nil {
		t.Fatal(err)
	}
	if h, err := x.Hosts.Get("bravo"); err != nil || h.Boot.Port != 2299 {
		t.Errorf("the installer is looked for at port %d, %v", h.Boot.Port, err)
	}
}
