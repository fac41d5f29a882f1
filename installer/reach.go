package installer

import (
	"context"
	"errors"
	"fmt"

	"provision/hosts"
)

// LookAround is a shell script that prints what can be known of a machine without changing it, in lines of a word and
// what it says. It takes a POSIX shell and cat, uname, id and readlink; what is missing is not printed.
const LookAround = `PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin
echo kernel $(uname -s)
echo arch $(uname -m)
echo uid $(id -u)
[ -z "$SSH_CONNECTION" ] || echo conn $SSH_CONNECTION
sudo=
if [ "$(id -u)" != 0 ]; then
	if sudo -n true < /dev/null 2> /dev/null; then echo sudo yes; sudo="sudo -n"; fi
fi
if [ -r /etc/os-release ]; then (
	. /etc/os-release
	echo "id $ID"
	echo "variant $VARIANT_ID"
	echo "name $PRETTY_NAME"
) fi
for d in /sys/class/net/*; do
	n=${d##*/}
	[ "$(cat "$d/type" 2> /dev/null)" = 1 ] || continue
	mac=$(cat "$d/address")
	[ -r "$d/bonding_slave/perm_hwaddr" ] && mac=$(cat "$d/bonding_slave/perm_hwaddr")
	kind=virtual
	[ -e "$d/device" ] && kind=wired
	[ -e "$d/wireless" ] || [ -e "$d/phy80211" ] && kind=wireless
	master=$(readlink "$d/master")
	echo nic $n $mac $kind ${master##*/}
done
while read -r dev to rest; do
	[ "$to" = 00000000 ] && echo route $dev
done < /proc/net/route
if command -v ip > /dev/null; then
	ip -o addr show | while read -r n dev family addr rest; do echo addr $dev ${addr%/*}; done
fi
if command -v sshd > /dev/null; then
	$sudo sshd -T -C user=root,host=provision,addr=${SSH_CONNECTION%% *} 2> /dev/null < /dev/null | while read -r key value; do
		case $key in permitrootlogin|pubkeyauthentication|authorizedkeysfile) echo sshd $key $value;; esac
	done
fi
true`

// maxSurroundings bounds what a machine may say to LookAround, bytes.
const maxSurroundings = 1 << 20

// Reach tries to log in to a machine that is to be taken over, and looks around there. It changes nothing.
func (in *Installer) Reach(ctx context.Context, take hosts.Takeover) (r hosts.Reached, err error) {
	s, proved, other, err := dial(ctx, take.Address, take.Port, take.HostKey, in.signer)
	r.Proved = proved
	switch {
	case ctx.Err() != nil:
		return r, ctx.Err()
	case errors.Is(err, errWrongKey):
		r.Why = fmt.Sprintf("%s has the host key %s there", take.Address, fingerprint(other))
		return r, nil
	case err != nil:
		r.Why = err.Error()
		return r, nil
	}
	defer s.client.Close()

	out, err := s.run(ctx, nil, "sh", "-c", LookAround)
	if err == nil && len(out) > maxSurroundings {
		err = fmt.Errorf("it says more than %d bytes of itself", maxSurroundings)
	}
	if err != nil {
		return r, fmt.Errorf("look around on %s: %w", take.Address, err)
	}

	r.Admitted = true
	r.Surroundings = string(out)
	return r, nil
}
