# A layout that uses what releases of disko differ in. `make beside TAGS=…` evaluates it with each.
{
  disko.devices = {
    disk.main = {
      type = "disk";
      device = "/dev/vda";
      content = {
        type = "gpt";
        partitions = {
          bios = { size = "1M"; type = "EF02"; };
          ESP = {
            size = "64M";
            type = "EF00";
            content = { type = "filesystem"; format = "vfat"; mountpoint = "/boot"; mountOptions = [ "umask=0077" ]; };
          };
          swap = {
            size = "256M";
            content = { type = "swap"; resumeDevice = true; };
          };
          crypt = {
            size = "100%";
            content = {
              type = "luks";
              name = "crypted";
              passwordFile = "/tmp/secret.key";
              settings.allowDiscards = true;
              content = { type = "lvm_pv"; vg = "pool"; };
            };
          };
        };
      };
    };
    disk.data = {
      type = "disk";
      device = "/dev/vdb";
      content = {
        type = "btrfs";
        extraArgs = [ "-f" ];
        subvolumes = {
          "/home" = { mountpoint = "/home"; mountOptions = [ "compress=zstd" ]; };
          "/srv" = { mountpoint = "/srv"; };
        };
      };
    };
    disk.raid0 = { type = "disk"; device = "/dev/vdc"; content = { type = "mdraid"; name = "boot"; }; };
    disk.raid1 = { type = "disk"; device = "/dev/vdd"; content = { type = "mdraid"; name = "boot"; }; };
    mdadm.boot = {
      type = "mdadm";
      level = 1;
      content = {
        type = "gpt";
        partitions.logs.size = "100%";
        partitions.logs.content = { type = "filesystem"; format = "ext4"; mountpoint = "/var/log"; postMountHook = "true"; };
      };
    };
    lvm_vg.pool = {
      type = "lvm_vg";
      lvs = {
        half = { size = "50%FREE"; content = { type = "filesystem"; format = "xfs"; mountpoint = "/nix"; }; };
        root = { size = "20G"; content = { type = "filesystem"; format = "ext4"; mountpoint = "/"; }; };
        rest = { size = "100%FREE"; content = { type = "filesystem"; format = "ext4"; mountpoint = "/var"; }; };
      };
    };
    nodev."/tmp" = { fsType = "tmpfs"; mountOptions = [ "size=200M" ]; };
  };
}
