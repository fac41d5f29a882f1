# What runs once at the boot of an installed host, after activation: file systems, network, sshd.
export PATH=/run/current-system/sw/bin
name=$(cat /etc/hostname)
mkdir -p /dev/disk/by-label
for label in $(sed -n 's|^/dev/disk/by-label/\([^ ]*\) .*|\1|p' /etc/fstab); do
	ln -sfn "$(busybox findfs "LABEL=$label")" "/dev/disk/by-label/$label"
done
# What stage 1 has mounted stays: mount -a of util-linux 2.41 does not know it by the device's other names. And busybox
# makes no mount points.
while read -r _ target type _; do
	[ "$type" = swap ] || busybox grep -q " $target " /proc/mounts || /run/current-system/sw/bin/mount "$target"
done </etc/fstab
swapon -a
for module in virtio_net e1000e e1000 igb r8169; do
	/run/current-system/sw/bin/modprobe -q -d /run/current-system/kernel-modules $module
done
ip link set lo up
for nic in /sys/class/net/*; do
	nic=${nic##*/}
	[ "$nic" != lo ] || continue
	ip link set "$nic" up
	busybox udhcpc -b -R -i "$nic" -t 20 -T 1 -A 5 -x "hostname:$name" -s /etc/boot/udhcpc >/dev/null
done
# As on NixOS, a host key that is not there is made.
if [ ! -s /etc/ssh/ssh_host_ed25519_key ]; then
	mkdir -p -m 0755 /etc/ssh
	ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
	echo "sshd: made a new host key"
fi
mkdir -p /run/sshd
/run/current-system/sw/bin/sshd
for port in $(sed -n 's/^Port //p' /etc/ssh/sshd_config); do # it goes into the background before it listens
	until grep -q "$(printf ':%04X .* 0A ' "$port")" /proc/net/tcp; do sleep 0.1; done
done
echo "booted $(readlink -f /run/current-system)"
echo
echo "$name login: "
