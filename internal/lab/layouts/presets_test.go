package layouts

import (
	"testing"

	"provision/disko"
)

// presets returns the layouts that come with provision.
func presets(t *testing.T) (list []layout) {
	t.Helper()
	for _, p := range disko.Presets() {
		l := removedFrom[p.Name]
		l.name, l.data = "presets/"+p.Name, place(t, p.JSON(), false)
		list = append(list, l)
	}
	return list
}

// removedFrom is what is taken away from some of them, and what must be found of others.
var removedFrom = map[string]layout{
	"btrfs":        {remove: "umount /mnt/home; mount /dev/vda2 /run/lock -o subvol=/; btrfs subvolume delete /run/lock/home; umount /run/lock", gone: ` path home$|/mnt/home/`},
	"mirror-ext4":  {remove: "umount /mnt/boot; wipefs --all /dev/md/boot", gone: `^/dev/md/boot |/mnt/boot/`},
	"mirror-btrfs": {holds: `btrfs filesystem show /mnt | grep -q 'devices 2'`},
	"luks-lvm":     {remove: "swapoff /dev/pool/swap; wipefs --all /dev/pool/swap", gone: `pool-swap `},
	"rpi3": {holds: fat32 + `sfdisk --dump /dev/vda >&2
sfdisk --dump /dev/vda | grep -q 'vda1 .*type= *c$'
sfdisk --dump /dev/vda | grep -q 'vda2 .*type= *83, bootable'`, removeClosed: "wipefs --all /dev/vda1", gone: `^/dev/vda1 |/mnt/boot/firmware/`},
	"rpi4": {holds: fat32 + `sfdisk --dump /dev/vda | grep -q 'vda2 .*attrs="LegacyBIOSBootable"'`},
}

const fat32 = "[ \"$(blkid --probe --output value --match-tag VERSION /dev/vda1)\" = FAT32 ]\n"
