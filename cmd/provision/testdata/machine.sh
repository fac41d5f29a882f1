# machine.sh [LINE...]: a machine with a real sshd on 127.0.0.1:$SSHPORT, with
# LINEs in its sshd_config. It has $WORK/root for its root's home, $WORK/etc for
# /etc/ssh, network cards of its own, the disks of root/lsblk.json, and the users ada,
# who may sudo, and bob.
set -e
if [ ! "$INSIDE" ]; then # unshare ignores interrupts
	INSIDE=1 unshare --mount --pid --fork --kill-child --mount-proc sh "$0" "$@" &
	trap 'kill -9 $!' INT TERM
	wait $!
	while ss -Hltn "sport = :$SSHPORT" | grep -q .; do sleep 0.01; done # its sshd ends a moment after it
	exit
fi
over() { mount --bind "$1" "$2"; }
mkdir -p root/.ssh etc home/ada/.ssh home/bob/.ssh users net
chmod 755 root home/ada home/bob
cp authorized_keys root/.ssh/
for user in ada bob; do
	cp authorized_keys home/$user/.ssh/
done
chown -R 2001 home/ada
chown -R 2002 home/bob
over root /root
over home /home
over etc /etc/ssh
mount -t tmpfs tmpfs /run
mkdir /run/sshd
{
	cat /etc/passwd
	echo ada:x:2001:65534::/home/ada:/bin/sh
	echo bob:x:2002:65534::/home/bob:/bin/sh
} > users/passwd
{
	grep -v ^root: /etc/shadow
	echo 'ada:*:20000::::::'
	echo 'bob:*:20000::::::'
	perl -e 'print "root:" . crypt("tell-nobody", "\$6\$lab\$") . ":20000::::::\n"'
} > users/shadow
chmod 600 users/shadow
over users/passwd /etc/passwd
over users/shadow /etc/shadow
mount -t tmpfs -o mode=755 tmpfs /etc/sudoers.d
echo 'ada ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ada
card() { # NAME MAC
	mkdir -p net/$1
	echo 1 > net/$1/type
	echo $2 > net/$1/address
}
card eth1 52:54:00:00:00:02
card eth0 52:54:00:00:00:01
card wlan0 52:54:00:00:00:03
card lo 00:00:00:00:00:00
card docker0 02:42:00:00:00:01
echo 772 > net/lo/type
touch net/eth0/device net/eth1/device net/wlan0/device net/wlan0/phy80211
over net /sys/class/net
tool() { # NAME SCRIPT
	printf '#!/bin/sh\n%s\n' "$2" > tool-$1
	chmod 755 tool-$1
	over tool-$1 "$(command -v $1)"
}
tool lsblk 'case "$*" in *--json*) cat /root/lsblk.json ;; esac'
tool findmnt 'echo "{\"filesystems\":[]}"'
{
	printf "Port $SSHPORT\nListenAddress 127.0.0.1\nUsePAM no\nPermitRootLogin yes\n"
	printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nHostKey /etc/ssh/ssh_host_rsa_key\n'
	[ $# = 0 ] || printf '%s\n' "$@"
} > etc/sshd_config
exec /usr/sbin/sshd -D -e
