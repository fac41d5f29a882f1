# Builds the store path of a host's /etc; activation links it into the root.
mkdir -p "$out/etc/ssh/authorized_keys.d" "$out/etc/boot"
cd "$out/etc"
printf '%s\n' "$hostName" >hostname
printf %s "$fstab" >fstab
[ ! -s "$sealed" ] || cp "$sealed" secrets.age
printf %s "$authorizedKeys" >ssh/authorized_keys.d/root
cat >ssh/sshd_config <<EOS
${sshPorts}HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
StrictModes no
AuthorizedKeysFile /root/.ssh/authorized_keys /etc/ssh/authorized_keys.d/root
SetEnv PATH=/run/current-system/sw/bin
Subsystem sftp internal-sftp
EOS
cat >os-release <<EOS
BUILD_ID="25.05.lab"
ID=nixos
NAME=NixOS
PRETTY_NAME="NixOS 25.05 (lab stand-in)"
VERSION="25.05 (lab stand-in)"
VERSION_ID="25.05"
EOS
cat >inittab <<EOS
::sysinit:/etc/boot/rc
::shutdown:$busybox/usr/bin/busybox sync
::shutdown:$busybox/usr/bin/busybox umount -a -r
EOS
printf '#!%s\n%s\n' "$busybox/usr/bin/busybox sh" "$udhcpc" >boot/udhcpc
printf '#!%s\n%s\n' "$busybox/usr/bin/busybox sh" "$boot" >boot/rc
if [ -n "$loaded" ]; then
	mkdir modules-load.d
	printf %s "$loaded" >modules-load.d/nixos.conf
fi
chmod 0755 boot/udhcpc boot/rc
