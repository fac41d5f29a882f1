# lan.sh COMMAND: a LAN with a home router, whose dnsmasq has $ROUTER's options
# (none: no router), and a command on it.
set -e
if [ ! "$INSIDE" ]; then # unshare ignores interrupts
	INSIDE=1 unshare --net --mount --pid --fork --kill-child --mount-proc sh "$0" "$@" &
	trap 'kill -9 $!' INT TERM
	wait $!
	exit
fi
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip address add 10.77.0.1/24 dev br0
ip link set br0 up
join() { # NAME ADDRESS MAC
	ip netns add $1
	ip link add $1 type veth peer name eth0 address $3 netns $1
	ip link set $1 master br0 up
	ip -n $1 link set lo up
	ip -n $1 link set eth0 up
	ip -n $1 address add $2/24 dev eth0
}
serves() { # NAME OPTION...
	name=$1
	shift
	ip netns exec $name dnsmasq --user=root --port=0 --interface=eth0 --bind-interfaces --no-ping --pid-file= --dhcp-leasefile=/run/$name "$@"
}
join router 10.77.0.2 52:54:00:77:00:02
[ "$ROUTER" = none ] || serves router --dhcp-range=10.77.0.100,10.77.0.199,1h ${ROUTER:---conf-file=/dev/null}
eval "$*"
