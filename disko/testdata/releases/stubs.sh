# A machine with blank disks for one of disko's scripts, which comes after this: each tool notes what it is called with in
# $STUBS/trace, and what a device holds then in $STUBS. Records end in \036, their words in \037; the first word of a
# check is "?".
note() { printf '%s\037' "$@" >>"$STUBS/trace"; printf '\036' >>"$STUBS/trace"; }
check() { note '?' "$@"; }
file() { printf '%s/%s' "$STUBS" "${1//\//!}"; }
has() { [ -e "$(file "$1")" ]; }
holds() { # WHAT ARG...: the first of the arguments that is a device holds it now
	local arg what=$1
	shift
	for arg; do
		case $arg in /dev/*) printf '%s\n' "$what" >"$(file "$arg")"; return ;; esac
	done
}
for tool in lvcreate mdadm modprobe mount partprobe sfdisk udevadm umount vgchange vgcreate wipefs zvol_wait; do
	eval "$tool() { note $tool \"\$@\"; }"
done
for tool in ext4 vfat xfs btrfs f2fs bcachefs; do
	eval "mkfs.$tool() { note mkfs.$tool \"\$@\"; holds TYPE=$tool \"\$@\"; }"
done
mkswap() { note mkswap "$@"; holds TYPE=swap "$@"; }
sgdisk() {
	note sgdisk "$@"
	case $1 in
	--zap-all) command rm -f "$(file "$2")" ;;
	*) holds PTTYPE=gpt "$@" ;;
	esac
}
parted() { note parted "$@"; holds PTTYPE=dos "$@"; }
pvcreate() { note pvcreate "$@"; holds TYPE=LVM2_member "$@"; }
swapon() {
	case $1 in
	--show) check swapon "$@" ;;
	*) note swapon "$@" ;;
	esac
}
blockdev() { check blockdev "$@"; }
sleep() { check sleep "$@"; }
touch() { check touch "$@"; }
findmnt() { check findmnt "$@"; return 1; }
lsblk() { check lsblk "$@"; return 1; }
lvdisplay() { check lvdisplay "$@"; return 5; }
vgdisplay() { check vgdisplay "$@"; return 5; }
readlink() { check readlink "$@"; printf '%s\n' "${@: -1}"; }
mkdir() {
	case ${*: -1} in
	"$TMPDIR"/*) command mkdir "$@" ;;
	*) note mkdir "$@" ;;
	esac
}
blkid() {
	local arg
	check blkid "$@"
	if [ "$1" = -lU ]; then
		has "/dev/disk/by-uuid/$2" || return 2
		printf '/dev/disk/by-uuid/%s\n' "$2"
		return
	fi
	for arg; do
		case $arg in /dev/*)
			has "$arg" || return 2
			printf 'DEVNAME=%s\n' "$arg"
			cat "$(file "$arg")"
			return ;;
		esac
	done
	return 2
}
btrfs() {
	case $2 in
	show) check btrfs "$@"; return 1 ;;
	*) note btrfs "$@" ;;
	esac
}
bcachefs() {
	local arg
	for arg; do
		case $arg in --uuid=*) echo TYPE=bcachefs >"$(file "/dev/disk/by-uuid/${arg#--uuid=}")" ;; esac
	done
	case "$1 $2" in
	"subvolume list"* | "subvolume snapshot"*) check bcachefs "$@"; return 1 ;;
	*) note bcachefs "$@" ;;
	esac
}
cryptsetup() {
	case " $* " in
	" status "*) check cryptsetup "$@"; has "$2" || return 4 ;;
	" isLuks "*) check cryptsetup "$@"; return 1 ;;
	*" luksFormat "*) note cryptsetup "$@"; holds TYPE=crypto_LUKS "$@" ;;
	*) note cryptsetup "$@"; [ "$1" != open ] && [ "$1" != luksOpen ] || echo open >"$(file "$3")" ;;
	esac
}
zpool() {
	local arg
	case $1 in
	list) check zpool "$@"; has "pool ${*: -1}" ;;
	create)
		note zpool "$@"
		for arg in "${@:2}"; do
			case $arg in -*) ;; *) echo pool >"$(file "pool $arg")"; return ;; esac
		done ;;
	import) note zpool "$@"; has "pool ${*: -1}" ;;
	*) note zpool "$@" ;;
	esac
}
zfs() {
	case $1 in
	get | list) check zfs "$@"; has "pool ${*: -1}" || return 1 ;;
	*) note zfs "$@"; [ "$1" != create ] || echo dataset >"$(file "pool ${*: -1}")" ;;
	esac
}
