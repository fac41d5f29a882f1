# Prints what a machine's disks are, for ReadProbe: a name and an output in turn, each
# followed by NUL. Tools that are not there print nothing.
say() { printf '%s\0' "$1"; shift; "$@" 2>/dev/null; printf '\0'; }
empty() {
	lsblk --noheadings --raw --paths --output NAME,FSTYPE | while read -r name type; do
		[ -n "$type" ] || echo "$name"
	done
}
# blkid exits 8 where there are signatures of several things, of which it then names none.
unclear() {
	empty | while read -r name; do
		blkid --probe "$name" >/dev/null
		[ $? != 8 ] || echo "$name"
	done
}
# lsblk asks udev, which may still look at what changed last. And udev misses what is made
# while it looks at the same device, so it looks again at all that seems empty. Where it
# does not run, udevadm would wait for ever.
if [ -S /run/udev/control ]; then
	udevadm settle --timeout 120
	empty | xargs -r udevadm trigger --settle
fi
printf 'lsblk\0'
lsblk --json --bytes --output-all || exit
printf '\0'
say links find /dev/disk /dev/md /dev/mapper -type l -printf '%p\t%l\n'
say mounts findmnt --json --list --nofsroot --output TARGET,SOURCE,FSTYPE,FSROOT
say swaps cat /proc/swaps
say pvs pvs --reportformat json --options pv_name,vg_name
say lvs lvs --reportformat json --units b --nosuffix --options vg_name,lv_name,lv_size,segtype,pool_lv
say unclear unclear
say pools zpool list -H -o name
say datasets zfs list -H -p -t filesystem,volume -o name,type,volsize,keystatus

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
