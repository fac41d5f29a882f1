# Makes the root file system fit this system; runs at each boot, and in nixos-enter.
export PATH=@sw@/bin
# The programs' loader and libraries have their places outside the store, for they are Debian's: first of all.
for dir in bin lib lib64 sbin; do
	[ "$(@busybox@ readlink "/$dir")" = "@sw@/usr/$dir" ] || @busybox@ ln -sfn "@sw@/usr/$dir" "/$dir"
done
@busybox@ ln -sfn @sw@/usr /usr
echo "setting up /etc..."
mkdir -p -m 0755 /etc/ssh /root /run /tmp /var/empty /var/lib /home
chmod 0700 /root
chmod 1777 /tmp
ln -sfn @out@/etc /etc/static
for file in hostname fstab inittab os-release boot ssh/sshd_config ssh/authorized_keys.d; do
	ln -sfn "/etc/static/$file" "/etc/$file"
done
touch /etc/NIXOS
# Where / begins anew at each boot, the host's key is kept elsewhere. The installation puts it where all hosts have it.
if [ -n "@persist@" ]; then
	mkdir -p -m 0755 @persist@/etc/ssh
	for key in /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub; do
		if [ -e $key ]; then cp -p $key @persist@$key; else cp -p @persist@$key $key; fi
	done
fi
ln -sfn /proc/mounts /etc/mtab
echo "setting up users..."
printf '%s\n' 'root:x:0:0:System administrator:/root:/run/current-system/sw/bin/bash' \
	'sshd:x:992:992:SSH privilege separation user:/var/empty:/run/current-system/sw/bin/nologin' \
	'nobody:x:65534:65534::/var/empty:/run/current-system/sw/bin/nologin' >/etc/passwd
printf '%s\n' 'root:x:0:' 'tty:x:5:' 'sshd:x:992:' 'nogroup:x:65534:' >/etc/group
[ -e /etc/shadow ] || (umask 077 && printf '%s\n' 'root:*:1::::::' 'sshd:!:1::::::' 'nobody:!:1::::::' >/etc/shadow)
[ -e /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
hostname @name@
ln -sfn @out@ /run/current-system
