# GRUB for a BIOS. It lies on the root, and reads kernel and initrd from the store.
if [ "$NIXOS_INSTALL_BOOTLOADER" = 1 ]; then
	for device in @grubDevices@; do grub-install --target=i386-pc "$device"; done
fi
cat >/boot/grub/grub.cfg.tmp <<EOS
set timeout=0
menuentry "NixOS - Generation $generation" {
	search --set=root --fs-uuid $(findmnt -n -o UUID /)
	linux $(readlink -f @out@/kernel) init=@out@/init $(cat @out@/kernel-params)
	initrd $(readlink -f @out@/initrd)
}
EOS
mv /boot/grub/grub.cfg.tmp /boot/grub/grub.cfg
sync
