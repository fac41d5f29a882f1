#!/bin/busybox sh
# Stage 1 of an installed host: opens the containers, mounts the root, then starts the init= of the command line.
export PATH=/bin LD_LIBRARY_PATH=/lib64
/bin/busybox mkdir -p /usr/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
exec </dev/console >/dev/console 2>&1

fail() {
	echo "stage 1: $*"
	while :; do sleep 3600; done
}

stage2=
for word in $(cat /proc/cmdline); do
	case $word in init=*) stage2=${word#init=} ;; esac
done
[ -n "$stage2" ] || fail "no init= on the command line"
modules='crc32c_generic crc32c_intel virtio_pci virtio_blk nvme ahci sd_mod ext4 vfat nls_cp437 nls_iso8859-1 nls_ascii nls_utf8 efivarfs virtio_rng'
grep -q ' btrfs ' /mounts && modules="$modules btrfs"
! grep -q '^raid ' /containers || modules="$modules raid1"
! grep -q '^lvm ' /containers || modules="$modules dm_mod"
! grep -q '^luks ' /containers || modules="$modules dm_mod dm_crypt ecb xts aesni_intel sha256_generic algif_skcipher"
tpm=/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so
[ ! -e $tpm ] || modules="$modules tpm_crb tpm_tis"
for module in $modules; do modprobe -q $module 2>/dev/null; done # some fit other processors only

# sshd, and the network that it needs, as boot.initrd.network.ssh starts them. It is there only if the host has it.
nics=
if [ -e /etc/ssh/sshd_config ]; then
	modprobe virtio_net
	mkdir -p /dev/pts /run/sshd
	mount -t devpts devpts /dev/pts
	mount -t ramfs ramfs /crypt-ramfs
	for nic in /sys/class/net/*; do
		nic=${nic##*/}
		[ "$nic" != lo ] || continue
		nics="$nics $nic"
		ip link set "$nic" up
		udhcpc -q -n -i "$nic" -t 20 -T 1 -s /etc/udhcpc
	done
	/bin/sshd -E /run/sshd.log
fi
# stopNetwork ends what stage 2 begins anew.
stopNetwork() {
	[ -n "$nics" ] || return
	killall -q sshd sshd-session
	for nic in $nics; do
		ip address flush dev "$nic"
		ip link set "$nic" down
	done
	umount /dev/pts
}

# There is no udev here; the links by partition label are made from what the kernel tells, those by label from what is
# on the disks.
mkdir -p /dev/disk/by-partlabel /dev/disk/by-label /run/mdadm
link() {
	for uevent in /sys/class/block/*/uevent; do
		label=$(sed -n 's/^PARTNAME=//p' "$uevent")
		node=${uevent%/uevent}
		[ -z "$label" ] || ln -sfn "../../${node##*/}" "/dev/disk/by-partlabel/$label"
	done
	for label in $(sed -n 's|^/dev/disk/by-label/\([^ ]*\) .*|\1|p' /mounts); do
		node=$(findfs "LABEL=$label" 2>/dev/null) && ln -sfn "../../${node##*/}" "/dev/disk/by-label/$label"
	done
}
# await NAME waits until the device node NAME is there.
await() {
	until [ -e "$1" ]; do
		link
		[ -e "$1" ] || sleep 0.1
	done
}

# assemble NAME MEMBER… waits 5 seconds for the members, and then does with those that are there. Without members, those
# are taken whose superblock has the name.
assemble() {
	array=/dev/md/$1
	if [ $# = 1 ]; then
		MDADM_NO_UDEV=1 mdadm --assemble --run "$array" --name "$1" || fail "cannot assemble $array"
		return
	fi
	shift
	tries=0 missing=$*
	while [ -n "$missing" ] && [ $tries -lt 50 ]; do
		link
		present='' missing=''
		for member; do
			if [ -e "$member" ]; then present="$present $member"; else missing="$missing $member"; fi
		done
		[ -z "$missing" ] || sleep 0.1
		tries=$((tries + 1))
	done
	[ -z "$missing" ] || echo "RAID $array goes without$missing"
	MDADM_NO_UDEV=1 mdadm --assemble --run "$array" $present || fail "cannot assemble $array"
}

# ask DEVICE reads a passphrase from the console, or takes that of cryptsetup-askpass.
ask() {
	if [ -z "$nics" ]; then
		read -r -s passphrase
		return
	fi
	printf %s "$1" >/crypt-ramfs/device
	until [ -e /crypt-ramfs/passphrase ]; do
		! read -r -s -t 1 passphrase || return
	done
	passphrase=$(cat /crypt-ramfs/passphrase)
	rm /crypt-ramfs/passphrase
}

# unlock NAME DEVICE OPTIONS… lets the TPM try, and then asks until the passphrase is right.
unlock() {
	name=$1 path=$2
	shift 2
	await "$path"
	if [ -e $tpm ]; then
		if cryptsetup open --type luks2 --token-only --token-type systemd-tpm2 "$@" "$path" "$name"; then
			echo "The TPM opened $path"
			return
		fi
		echo "The TPM does not open $path"
	fi
	tries=0
	while :; do
		printf 'Passphrase for %s: ' "$path"
		ask "$path"
		echo
		if printf %s "$passphrase" | cryptsetup open --type luks "$@" --key-file - "$path" "$name"; then
			break
		fi
		tries=$((tries + 1))
		[ $((tries % 3)) -ne 0 ] || echo "3 wrong passphrases; going on asking"
	done
	unset passphrase
}

no_udev='devices { obtain_device_list_from_udev = 0 } activation { udev_rules = 0 udev_sync = 0 }'
while read -r kind name rest <&3; do
	case $kind in
	raid) assemble "$name" $rest ;;
	luks) unlock "$name" $rest ;;
	btrfs) btrfs device scan ;;
	lvm) lvm vgchange --activate y --sysinit --config "$no_udev" "$name" 3<&- || fail "cannot activate $name" ;;
	esac
done 3</containers

while read -r path mountpoint type options <&3; do
	mkdir -p "/mnt-root$mountpoint"
	case $path in
	/dev/*) await "$path" ;;
	/*) path=/mnt-root$path && mkdir -p "$path" ;;
	esac
	mount -t "$type" -o "$options" "$path" "/mnt-root$mountpoint" || fail "cannot mount $path on $mountpoint"
done 3</mounts

[ -e "/mnt-root$stage2" ] || fail "stage 2 init script ($stage2) not found on the root file system"
stopNetwork
mkdir -p /mnt-root/proc /mnt-root/sys /mnt-root/dev /mnt-root/run
for dir in proc sys dev run; do mount --move /$dir /mnt-root/$dir; done
exec switch_root /mnt-root "$stage2"
