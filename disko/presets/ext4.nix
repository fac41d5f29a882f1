{
  disko.devices.disk.main = {
    type = "disk";
    device = "/dev/disk/by-id/CHANGE-ME";
    content = {
      type = "gpt";
      partitions = {
        ESP = {
          size = "1G"; # for the kernels and initrds of many generations
          type = "EF00";
          content = {
            type = "filesystem";
            format = "vfat";
            extraArgs = [ "-n" "boot" ];
            mountpoint = "/boot";
            mountOptions = [ "umask=0077" ];
          };
        };
        root = {
          size = "100%";
          content = {
            type = "filesystem";
            format = "ext4";
            extraArgs = [ "-L" "nixos" ];
            mountpoint = "/";
          };
        };
      };
    };
  };
}
