# Prints what a machine's disks are, for ReadProbe: a name and an output in turn, each
# followed by NUL. Tools that are not there print nothing.
#
# Only what is written to file descriptor 3 gets there. Whatever else a tool prints goes to
# standard error: mount of util-linux 2.41 prints the kernel's warnings to standard output.
exec 3>&1 >&2
export LC_ALL=C
say() { printf '%s\0' "$1"; shift; "$@" 2>/dev/null; printf '\0'; } >&3
# lsblk asks udev, which may still look at what changed last, and misses what is made while
# it looks at the same device. So blkid looks, too, at all that lsblk shows, and not only at what lsblk shows as
# empty when it is asked once more: a volume may start in between. Where there are signatures
# of several things it names none of them: it exits 8, but with util-linux 2.41 exits 2 as where
# there is nothing; wipefs lists them all.
! [ -S /run/udev/control ] || udevadm settle --timeout 120
disks=$(lsblk --json --bytes --output-all) || exit
signatures() {
	printf '%s\n' "$disks" | tr , '\n' | sed -n 's/.*"kname": *"\([^"]*\)".*/\1/p' | while read -r name; do
		printf '/dev/%s\n' "$name"
		blkid --probe --output export "/dev/$name"
		case $? in
		8) echo TYPE=unclear ;;
		2) [ "$(wipefs --noheadings --output TYPE "/dev/$name" | sort -u | wc -l)" -lt 2 ] || echo TYPE=unclear ;;
		esac
	done 2>/dev/null
}
signatures=$(signatures)
# lsblk leaves out what has no size, such as a RAID that lacks members, and which still holds its disks.
holders() {
	for link in /sys/class/block/*/holders/*; do
		[ -e "$link" ] || continue
		device=${link%/holders/*}
		holder=${link##*/}
		printf '%s\t%s\t%s\n' "${device##*/}" "$holder" "$(cat "/sys/class/block/$holder/dm/name" 2>/dev/null)"
	done
}
say lsblk printf "%s\n" "$disks"
say links find /dev/disk /dev/md /dev/mapper -type l -printf '%p\t%l\n'
say mounts findmnt --json --list --nofsroot --output TARGET,SOURCE,FSTYPE,FSROOT
say swaps cat /proc/swaps
say signatures printf "%s\n" "$signatures"
say holders holders
all=$signatures$disks
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
# rescue=nologreplay is there since Linux 5.9, and the bare option warns since 6.8.
look() {
	for options in rescue=nologreplay nologreplay defaults; do
		mount -t btrfs -o "ro,$options,subvol=/" "$1" "$at" && return
	done
	return 1
}
while [ $# -gt 0 ]; do
	device=$1
	shift
	mkdir -p "$at"
	look "$device" || exit
	printf 'inside\0%s\0' "$device" >&3
	while [ -n "$1" ]; do
		kind=
		if [ -f "$at/$1" ]; then
			kind=file
		elif [ "$(stat -c %i "$at/$1" 2>/dev/null)" = 256 ]; then # the root of every subvolume
			kind=subvolume
		elif [ -e "$at/$1" ]; then
			kind=other
		fi
		printf '%s\0%s\0' "$1" "$kind" >&3
		shift
	done
	shift
	printf '\0' >&3
	umount "$at" || exit
done
printf 'end\0' >&3
