{
  disko.devices = {
    disk.first = {
      type = "disk";
      device = "/dev/disk/by-id/CHANGE-ME-1";
      content = {
        type = "gpt";
        partitions = {
          ESP = {
            size = "1G";
            type = "EF00";
            content = {
              type = "mdraid";
              name = "boot";
            };
          };
          root.size = "100%"; # a part of the btrfs on the second disk
        };
      };
    };
    disk.second = {
      type = "disk";
      device = "/dev/disk/by-id/CHANGE-ME-2";
      content = {
        type = "gpt";
        partitions = {
          ESP = {
            size = "1G";
            type = "EF00";
            content = {
              type = "mdraid";
              name = "boot";
            };
          };
          root = {
            size = "100%";
            content = {
              type = "btrfs";
              extraArgs = [ "-f" "-L" "nixos" "-d" "raid1" "-m" "raid1" "/dev/disk/by-partlabel/disk-first-root" ];
              subvolumes = {
                "/home" = {
                  mountpoint = "/home";
                  mountOptions = [ "compress=zstd" "noatime" ];
                };
                "/nix" = {
                  mountpoint = "/nix";
                  mountOptions = [ "compress=zstd" "noatime" ];
                };
                "/root" = {
                  mountpoint = "/";
                  mountOptions = [ "compress=zstd" "noatime" ];
                };
              };
            };
          };
        };
      };
    };
    mdadm.boot = {
      type = "mdadm";
      level = 1;
      # At the end of the partition, so that the firmware of either disk sees a plain FAT. systemd-boot does not install
      # there; GRUB does: boot.loader.grub = { efiSupport = true; efiInstallAsRemovable = true; device = "nodev"; }
      metadata = "1.0";
      content = {
        type = "filesystem";
        format = "vfat";
        extraArgs = [ "-n" "boot" ];
        mountpoint = "/boot";
        mountOptions = [ "umask=0077" ];
      };
    };
  };
}
