{
  disko.devices = {
    disk.main = {
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
          nix = {
            size = "100%";
            content = {
              type = "btrfs";
              extraArgs = [ "-f" "-L" "nixos" ];
              subvolumes = {
                "/nix" = {
                  mountpoint = "/nix";
                  mountOptions = [ "compress=zstd" "noatime" ];
                };
                "/persist" = {
                  mountpoint = "/persist";
                  mountOptions = [ "compress=zstd" "noatime" ];
                };
              };
            };
          };
        };
      };
    };
    # What is not in /nix or /persist is gone after each boot. Set fileSystems."/persist".neededForBoot, and keep the
    # SSH host key there: services.openssh.hostKeys = [{ type = "ed25519"; path = "/persist/etc/ssh/ssh_host_ed25519_key"; }]
    nodev."/" = {
      fsType = "tmpfs";
      mountOptions = [ "size=25%" "mode=755" ];
    };
  };
}
