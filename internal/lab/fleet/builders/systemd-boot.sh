# systemd-boot, with kernels and initrds on the ESP.
mountpoint -q /boot || { echo "/boot is not a mounted partition. Is the path configured correctly?" >&2; exit 1; }
[ "$(stat -f -c %T /boot)" = msdos ] || { echo "File system \"/boot\" is not a FAT EFI System Partition" >&2; exit 1; }

mkdir -p /boot/EFI/nixos /boot/loader/entries
if [ "$NIXOS_INSTALL_BOOTLOADER" = 1 ]; then
	mkdir -p /boot/EFI/systemd /boot/EFI/BOOT
	for target in EFI/systemd/systemd-boot@efi@.efi EFI/BOOT/BOOT@efi@.EFI; do # FAT knows no upper and lower case
		cp @sw@/usr/lib/systemd/boot/efi/systemd-boot@efi@.efi /boot/$target
	done
	echo "Copied systemd-boot to /boot/EFI/systemd and /boot/EFI/BOOT."
	# NixOS's bootctl also puts an entry in front of the firmware's boot order. Here a mirror has one for each disk.
	if [ -n "@efiEntry@" ] && [ -d /sys/firmware/efi/efivars ]; then
		node=$(basename "$(readlink -f "$(findmnt -n -o SOURCE /boot)")")
		for node in $(ls "/sys/class/block/$node/slaves" 2>/dev/null || echo "$node"); do
			efibootmgr --quiet --create --disk "/dev/$(basename "$(dirname "$(readlink -f /sys/class/block/$node)")")" \
				--part "$(cat /sys/class/block/$node/partition)" --label "Linux Boot Manager" \
				--loader '\EFI\systemd\systemd-boot@efi@.efi'
			[ "@efiEntry@" = first ] || efibootmgr --quiet --bootorder "$(efibootmgr | sed -n 's/^BootOrder: \([^,]*\),\(.*\)/\2,\1/p')"
		done
	fi
fi
# secrets prints the archive of boot.initrd.secrets that is appended to the initrd.
secrets() (
	[ -s @out@/initrd-secrets ] || exit 0
	folder=$(mktemp -d)
	while read -r file name; do
		mkdir -p "$folder/$(dirname "$name")"
		cp -p "$file" "$folder/$name"
	done <@out@/initrd-secrets
	(cd "$folder" && find . | busybox cpio -o -H newc -R 0:0 | gzip)
	rm -r "$folder"
)
# store FILE [APPENDED] copies a file of the store to the ESP, under the name that NixOS gives it, and prints that.
# What the function APPENDED prints is added to the copy.
store() {
	file=$(readlink -f "$1")
	name=EFI/nixos/$(basename "$(dirname "$file")")-$(basename "$file").efi
	if [ ! -e "/boot/$name" ]; then
		cp "$file" "/boot/$name.tmp"
		[ $# = 1 ] || $2 >>"/boot/$name.tmp"
		mv "/boot/$name.tmp" "/boot/$name"
	fi
	echo "/$name"
}
initrd=$(store @out@/initrd secrets)
cat >/boot/loader/entries/nixos-generation-$generation.conf <<EOS
title NixOS
version Generation $generation NixOS 25.05.lab
linux $(store @out@/kernel)
initrd $initrd
options init=@out@/init $(cat @out@/kernel-params)
EOS
printf 'timeout 0\ndefault nixos-generation-%s.conf\neditor 0\nconsole-mode keep\n' "$generation" >/boot/loader/loader.conf
sync
