{
  disko.devices.disk.main = {
    type = "disk";
    device = "/dev/mmcblk0"; # the SD card; /dev/nvme0n1 is an SSD
    content = {
      type = "gpt";
      partitions = {
        firmware = {
          size = "1G"; # firmware, and kernels where these start without U-Boot
          type = "0700"; # the firmware looks for a FAT in basic data
          priority = 1;
          content = {
            type = "filesystem";
            format = "vfat";
            extraArgs = [ "-F" "32" "-n" "FIRMWARE" ];
            mountpoint = "/boot/firmware";
          };
        };
        root = {
          size = "100%";
          attributes = [ 2 ]; # "legacy BIOS bootable": where U-Boot looks for /boot/extlinux
          content = {
            type = "filesystem";
            format = "ext4";
            extraArgs = [ "-L" "NIXOS_SD" ];
            mountpoint = "/";
          };
        };
      };
    };
  };
}
