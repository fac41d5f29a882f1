# Stage 2 of an installed host: activation, then busybox init, which runs /etc/boot/rc.
export PATH=@sw@/bin
systemConfig=@out@
mounted() { @busybox@ grep -q " $1 " /proc/mounts; }
@busybox@ mkdir -p /proc /sys /dev /run /tmp /root /var /mnt
[ -e /proc/mounts ] || @busybox@ mount -t proc proc /proc
mounted /sys || @busybox@ mount -t sysfs sysfs /sys
mounted /dev || @busybox@ mount -t devtmpfs devtmpfs /dev
mounted /run || @busybox@ mount -t tmpfs tmpfs /run
@busybox@ mkdir -p /dev/pts /dev/shm
@busybox@ mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
@busybox@ mount -t tmpfs -o mode=1777 tmpfs /dev/shm
@busybox@ chmod 1777 /tmp
exec </dev/console >/dev/console 2>&1
echo
echo "<<< NixOS Stage 2 >>>"
echo
@out@/activate
[ ! -d /sys/firmware/efi/efivars ] || mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null
ln -sfn "$systemConfig" /run/booted-system
exec @busybox@ init
