# Builds one Debian package's store path, with everything under usr.
mkdir "$out"
cd "$out"
for dir in bin sbin lib lib64; do
	mkdir -p usr/$dir
	ln -s usr/$dir $dir
done
dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-permissions $unwanted
rm bin sbin lib lib64
rm -rf var run usr/lib/modules boot
find . -type d -empty -delete
# The dependencies, where nix finds them.
mkdir -p nix-support
echo "$depends" >nix-support/propagated-build-inputs
