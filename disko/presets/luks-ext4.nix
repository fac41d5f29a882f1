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
        luks = {
          size = "100%";
          content = {
            type = "luks";
            name = "crypted";
            # Only the install reads this file. What is in it, without a newline at its end, is the passphrase
            # that is to be typed at each boot.
            passwordFile = "/tmp/disk.key";
            settings.allowDiscards = true; # an SSD is told which blocks are free; who reads it sees that
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
  };
}
