# A host whose layout has a hook that names a store path, and the script that makes its disks, as disko's own does: it
# is an executable, and brings what the hook needs.
{ layout, disk, espSize }:
let
  executable = name: text: derivation {
    inherit name text;
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ "-eu" "-c" ''printf '#!/bin/sh\n%s\n' "$text" >"$out"; chmod 0555 "$out"'' ];
    PATH = "/usr/bin:/bin";
  };
  hook = "${executable "mark" ''echo "the hook ran" >"$1/marked"''} /mnt\n";
  main = layout.disk.main;
  partitions = main.content.partitions;
  label = name: "/dev/disk/by-partlabel/disk-main-${name}";
in
{
  layout = layout // {
    disk.main = main // {
      content = main.content // {
        partitions = partitions // {
          root = partitions.root // { content = partitions.root.content // { postMountHook = hook; }; };
        };
      };
    };
  };
  script = executable "disko" ''
    set -eux
    ! mountpoint -q /mnt || umount --recursive /mnt
    wipefs --all --force ${disk}[0-9]* ${disk} || wipefs --all --force ${disk}
    sgdisk --zap-all ${disk}
    sgdisk --clear ${disk}
    sgdisk --align-end --new=1:0:+${espSize} --change-name=1:disk-main-ESP --typecode=1:EF00 ${disk}
    sgdisk --align-end --new=2:0:-0 --change-name=2:disk-main-root --typecode=2:8300 ${disk}
    partprobe ${disk}
    udevadm trigger --subsystem-match=block
    udevadm settle --timeout 120
    mkfs.vfat ${label "ESP"}
    mkfs.ext4 ${label "root"}
    mount ${label "root"} /mnt -t ext4 -o defaults -o X-mount.mkdir
    ${hook}
    mount ${label "ESP"} /mnt/boot -t vfat -o umask=0077 -o X-mount.mkdir
  '';
}
