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
ip netns add router
ip link add port type veth peer name eth0 address 52:54:00:77:00:02 netns router
ip link set port master br0 up
ip -n router link set lo up
ip -n router link set eth0 up
ip -n router address add 10.77.0.2/24 dev eth0
[ "$ROUTER" = none ] || ip netns exec router dnsmasq --user=root --port=0 --interface=eth0 --bind-interfaces --no-ping \
	--pid-file= --dhcp-leasefile=/run/leases --dhcp-range=10.77.0.100,10.77.0.199,1h ${ROUTER:---conf-file=/dev/null}
eval "$*"
