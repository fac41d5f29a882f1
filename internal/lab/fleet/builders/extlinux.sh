# What U-Boot reads, with kernels and initrds on the same file system, as NixOS's generic-extlinux-compatible has it.
mkdir -p /boot/extlinux /boot/nixos
# store FILE copies a file of the store to /boot, under the name that NixOS gives it, and prints that.
store() {
	file=$(readlink -f "$1")
	name=nixos/$(basename "$(dirname "$file")")-$(basename "$file")
	if [ ! -e "/boot/$name" ]; then
		cp "$file" "/boot/$name.tmp"
		mv "/boot/$name.tmp" "/boot/$name"
	fi
	echo "../$name"
}
cat >/boot/extlinux/extlinux.conf.tmp <<EOS
DEFAULT nixos-default
TIMEOUT 1

LABEL nixos-default
  MENU LABEL NixOS - Default
  LINUX $(store @out@/kernel)
  INITRD $(store @out@/initrd)
  APPEND init=@out@/init $(cat @out@/kernel-params)
EOS
mv /boot/extlinux/extlinux.conf.tmp /boot/extlinux/extlinux.conf
sync
