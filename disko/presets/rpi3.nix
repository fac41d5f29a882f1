{
  disko.devices.disk.main = {
    type = "disk";
    device = "/dev/mmcblk0"; # the SD card
    content = {
      # The boot ROM of the Pi 3 reads an MBR only, and firmware from a FAT partition of type 0x0c, which parted makes
      # of fat32. (The flag lba would make 0x83 of it: disko sets it by a command of its own.)
      type = "table";
      format = "msdos";
      partitions = [
        {
          name = "firmware";
          start = "1MiB";
          end = "513MiB";
          fs-type = "fat32";
          content = {
            type = "filesystem";
            format = "vfat";
            extraArgs = [ "-F" "32" "-n" "FIRMWARE" ];
            mountpoint = "/boot/firmware";
          };
        }
        {
          name = "root";
          start = "513MiB";
          end = "100%";
          fs-type = "ext4";
          bootable = true; # where U-Boot looks for /boot/extlinux
          content = {
            type = "filesystem";
            format = "ext4";
            extraArgs = [ "-L" "NIXOS_SD" ];
            mountpoint = "/";
          };
        }
      ];
    };
  };
}
