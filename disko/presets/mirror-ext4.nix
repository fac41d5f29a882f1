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
          root = {
            type = "FD00";
            size = "100%";
            content = {
              type = "mdraid";
              name = "root";
            };
          };
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
            type = "FD00";
            size = "100%";
            content = {
              type = "mdraid";
              name = "root";
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
    mdadm.root = {
      type = "mdadm";
      level = 1;
      content = {
        type = "filesystem";
        format = "ext4";
        extraArgs = [ "-L" "nixos" ];
        mountpoint = "/";
      };
    };
  };
}
