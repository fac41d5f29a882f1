# Prints what a machine's disks are, for ReadProbe: a name and an output in turn, each
# followed by NUL. Tools that are not there print nothing.
say() { printf '%s\0' "$1"; shift; "$@" 2>/dev/null; printf '\0'; }
# lsblk asks udev, which may still look at what changed last, and misses what is made while
# it looks at the same device. So blkid looks at all that seems empty: it exits 8 where there
# are signatures of several things, of which it then names none, and 2 where there are none.
! [ -S /run/udev/control ] || udevadm settle --timeout 120
devices=$(lsblk --noheadings --raw --output KNAME,FSTYPE)
signatures() {
	printf '%s\n' "$devices" | while read -r name type; do
		[ -z "$type" ] || continue
		printf '/dev/%s\n' "$name"
		blkid --probe --output export "/dev/$name"
		[ $? != 8 ] || echo TYPE=unclear
	done 2>/dev/null
}
signatures=$(signatures)
printf 'lsblk\0'
lsblk --json --bytes --output-all || exit
printf '\0'
say links find /dev/disk /dev/md /dev/mapper -type l -printf '%p\t%l\n'
say mounts findmnt --json --list --nofsroot --output TARGET,SOURCE,FSTYPE,FSROOT
say swaps cat /proc/swaps
say signatures echo "$signatures"
all=$signatures$devices
case $all in *LVM2_member*)
	say pvs pvs --reportformat json --options pv_name,vg_name
	say lvs lvs --reportformat json --units b --nosuffix --options vg_name,lv_name,lv_size,segtype,pool_lv
	;;
esac
case $all in *zfs_member*)
	say pools zpool list -H -o name
	say datasets zfs list -H -p -t filesystem,volume -o name,type,volsize,keystatus
	;;
esac

# Arguments: a btrfs device, paths on it, and an empty one, and so on. Where one is mounted
# already, another log than its own cannot be meant.
at=/run/provision/look
while [ $# -gt 0 ]; do
	device=$1
	shift
	mkdir -p "$at"
	mount -t btrfs -o ro,nologreplay,subvol=/ "$device" "$at" || mount -t btrfs -o ro,subvol=/ "$device" "$at" || exit
	printf 'inside\0%s\0' "$device"
	while [ -n "$1" ]; do
		kind=
		if [ -f "$at/$1" ]; then
			kind=file
		elif [ "$(stat -c %i "$at/$1" 2>/dev/null)" = 256 ]; then # the root of every subvolume
			kind=subvolume
		elif [ -e "$at/$1" ]; then
			kind=other
		fi
		printf '%s\0%s\0' "$1" "$kind"
		shift
	done
	shift
	printf '\0'
	umount "$at" || exit
done
