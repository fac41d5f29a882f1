# Merges packages into one tree of links, as NixOS's system-path is.
mkdir -p "$out/usr/bin" "$out/usr/lib" "$out/usr/lib64" "$out/usr/share"
ln -s bin "$out/usr/sbin"
for package in $packages; do
	for dir in bin sbin lib lib64 share; do
		[ ! -d "$package/usr/$dir" ] || cp -rs --remove-destination "$package/usr/$dir/." "$out/usr/$dir/"
	done
done
for applet in reboot poweroff halt; do # they tell busybox init
	ln -s busybox "$out/usr/bin/$applet"
done
ln -s bash "$out/usr/bin/sh"
ln -s usr/bin "$out/bin"
ln -s usr/bin "$out/sbin"
ln -s usr/lib "$out/lib"
ln -s usr/share "$out/share"
