# Builds the kernel's store path: bzImage or Image, and those of the installer's modules that the hosts need.
mkdir "$out"
cp "$tree/vmlinuz" "$out/$file"
cp -r "$tree/lib" "$out/lib"
cd "$out"/lib/modules/*/kernel
rm -rf fs/xfs fs/f2fs fs/squashfs fs/overlayfs drivers/cdrom drivers/md/raid0* drivers/md/raid10* drivers/md/raid456* \
	drivers/md/dm-raid.ko drivers/md/dm-snapshot.ko drivers/md/dm-thin-pool.ko drivers/md/persistent-data
