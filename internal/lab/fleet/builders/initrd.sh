# Builds a host's initrd: busybox, the kernel modules, the script init, and the programs that open containers, with
# their libraries.
root=$NIX_BUILD_TOP/root
mkdir -p "$root/bin" "$root/usr" "$root/lib64" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/mnt-root" "$out"
cp "$busybox/usr/bin/busybox" "$root/bin/busybox"
ln -s lib64 "$root/lib"
ln -s ../lib64 "$root/usr/lib" # where cryptsetup of Debian 13 looks for plugins
ln -s bin "$root/sbin" # where the kernel looks for modprobe
mkdir -p "$root/lib64/modules"
version=$(ls "$modules/lib/modules")
mkdir "$root/lib64/modules/$version"
cp "$modules/lib/modules/$version"/modules.* "$root/lib64/modules/$version/"
cd "$modules/lib/modules/$version"
find kernel -name '*.ko' |
	if [ -n "$sshPort" ]; then cat; else grep -v /drivers/net/; fi |
	while read -r module; do
		install -D -m 0644 "$module" "$root/lib64/modules/$version/$module"
	done
# The loader lists what a program needs: "libfoo.so.1 => PATH (0x…)". It runs on the builder, so this is for x86_64 only.
loader=$sw/usr/lib64/ld-linux-x86-64.so.2
lib=$sw/usr/lib/x86_64-linux-gnu
needs() { # PROGRAM or LIBRARY
	"$loader" --library-path "$lib:$lib/systemd" --list "$1" |
		sed -n 's/^.* => \(\/[^ ]*\) .*$/\1/p' | while read -r library; do
		cp -L "$library" "$root/lib64/"
	done
}
for program in $programs; do
	cp -L "$loader" "$root/lib64/"
	cp -L "$sw/bin/$program" "$root/bin/"
	needs "$sw/bin/$program"
	# cryptsetup's threads for argon2 end by a library that is loaded when needed.
	cp -L "$sw/usr/lib/x86_64-linux-gnu/libgcc_s.so.1" "$root/lib64/"
done
if [ -n "$sshPort" ]; then
	for program in sshd-session sshd-auth; do # there since OpenSSH 9.8 and 10
		[ -e "$sw/usr/lib/openssh/$program" ] || continue
		install -D "$sw/usr/lib/openssh/$program" "$root/lib64/openssh/$program"
		needs "$sw/usr/lib/openssh/$program"
	done
	mkdir -p "$root/etc/ssh" "$root/var/empty" "$root/crypt-ramfs" "$root/root"
	cat >"$root/etc/ssh/sshd_config" <<EOS
Port $sshPort
${hostKeys}PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
AuthorizedKeysFile /etc/ssh/authorized_keys
SetEnv PATH=/bin
EOS
	printf %s "$authorizedKeys" >"$root/etc/ssh/authorized_keys"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/ash' 'sshd:x:1:1:sshd:/var/empty:/bin/nologin' >"$root/etc/passwd"
	printf '%s\n' 'root:x:0:' 'sshd:x:1:' >"$root/etc/group"
	printf '#!/bin/busybox sh\n%s\n' "$askpass" >"$root/bin/cryptsetup-askpass"
	printf '#!/bin/busybox sh\n%s\n' "$udhcpc" >"$root/etc/udhcpc"
	chmod 0755 "$root/bin/cryptsetup-askpass" "$root/etc/udhcpc"
fi
# cryptsetup loads this plugin by its path, and the plugin loads the TPM's libraries by name.
if [ -n "$tpm" ]; then
	plugin=x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so
	mkdir -p "$root/lib64/${plugin%/*}"
	cp -L "$sw/usr/lib/$plugin" "$root/lib64/$plugin"
	needs "$sw/usr/lib/$plugin"
	for library in esys.so.0 mu.so.0 rc.so.0 tcti-device.so.0; do
		cp -L "$lib/libtss2-$library" "$root/lib64/"
		needs "$lib/libtss2-$library"
	done
fi
printf '%s\n' "$init" >"$root/init"
chmod 0755 "$root/init"
printf %s "$containers" >"$root/containers"
printf %s "$mounts" >"$root/mounts"
cd "$root"
find . -print | cpio -o -H newc -R 0:0 --quiet | gzip -1 -n >"$out/initrd"
