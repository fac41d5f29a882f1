package installer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"provision/hosts"
)

// RebootWithin is how long an installed host may take to answer from its own
// disk. After that it counts as failed, and is still looked for.
const RebootWithin = time.Hour

// verify asks whether the host came up from its own disk: it must answer with
// the key that was made for it. Where it lets us in, it must also run the
// system that we built. True: there is nothing more to ask.
func (f *follower) verify(ctx context.Context, h hosts.Host) bool {
	for _, addr := range addresses(h) {
		s, proved, other, err := dial(ctx, addr, 0, h.HostKey, f.signer)
		switch {
		case errors.Is(err, errWrongKey) && other == h.Boot.HostKey:
			f.restartInstaller(ctx, h, addr)
			continue
		case errors.Is(err, errWrongKey):
			f.note("%s answers SSH with another key than %s has; not believed", addr, h.Name)
			continue
		case !proved:
			f.Log.Debug("not up yet", "host", h.Name, "addr", addr, "err", err)
			continue
		}
		proof := fmt.Sprintf("%s answers at %s with its own SSH key", h.Name, addr)
		if s == nil {
			proof += "; it lets this server not log in, so the system it runs was not compared"
		} else {
			running, err := s.run(ctx, nil, "readlink", "-f", "/run/current-system")
			s.client.Close()
			if err != nil {
				f.Log.Debug("ask for the running system", "host", h.Name, "err", err)
				continue
			}
			if system := strings.TrimSpace(string(running)); system != h.System {
				if h.State == hosts.Rebooting {
					f.fail(hosts.PhaseReboot, fmt.Errorf("%s runs %s, not %s", h.Name, system, h.System))
				}
				return true
			}
			proof += " and runs " + h.System
		}
		if addr != h.Address {
			f.apply(hosts.Event{Kind: hosts.Moved, Address: addr, Message: "has address " + addr})
		}
		f.apply(hosts.Event{Kind: hosts.Proved, Message: proof})
		return true
	}
	if h.State == hosts.Rebooting && f.Now().Sub(h.Since) > RebootWithin {
		f.fail(hosts.PhaseReboot, fmt.Errorf("%s did not answer with its own SSH key within %s of the restart; see its screen: "+
			"it may wait for a disk passphrase, or start something else. It counts as installed as soon as it answers", h.Name, RebootWithin))
	}
	return false
}

// restartInstaller reboots an installer that still runs because the server was
// killed between the event and the command.
func (f *follower) restartInstaller(ctx context.Context, h hosts.Host, addr string) {
	s, _, _, err := dial(ctx, addr, h.Boot.Port, h.Boot.HostKey, f.signer)
	if err != nil {
		return
	}
	defer s.client.Close()
	if err := restart(ctx, s); err != nil {
		f.note("restart the installer at %s: %v", addr, err)
	}
}
