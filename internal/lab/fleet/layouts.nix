# The disks of the hosts, as `config.disko.devices` is once disko has evaluated it: every option is there with its
# default, device names are worked out, and some attributes are functions, so that a plain `nix eval --json` fails.
{ disk, espSize, luksFormatArgs }:
let
  hooks = {
    preCreateHook = "";
    postCreateHook = "";
    preMountHook = "";
    postMountHook = "";
    preUnmountHook = "";
    postUnmountHook = "";
  };
  internal = { _create = x: x; _mount = x: x; _unmount = x: x; _meta = x: x; };

  partition = rank: name: { type ? "8300", size, content }: rec {
    inherit name type size;
    alignment = 0;
    attributes = [ ];
    content' = content;
    device = "/dev/disk/by-partlabel/${label}";
    end = if size == "100%" then "-0" else "+${size}";
    hybrid = null;
    label = "disk-main-${name}";
    priority = if size == "100%" then 9001 else 1000;
    start = "0";
    uuid = null;
  };
  finish = p: builtins.removeAttrs p [ "content'" ] // { content = p.content' p.device; };

  filesystem = { format, mountpoint, mountOptions ? [ "defaults" ], extraArgs ? [ ] }: device: hooks // internal // {
    inherit device format mountpoint mountOptions extraArgs;
    type = "filesystem";
  };
  swap = device: hooks // internal // {
    inherit device;
    discardPolicy = null;
    extraArgs = [ ];
    mountOptions = [ "defaults" ];
    priority = null;
    randomEncryption = false;
    resumeDevice = false;
    type = "swap";
  };
  luks = { name, content, passwordFile ? null, settings ? { } }: device: hooks // internal // {
    inherit device name passwordFile settings;
    additionalKeyFiles = [ ];
    askPassword = false;
    content = content "/dev/mapper/${name}";
    extraFormatArgs = luksFormatArgs;
    extraOpenArgs = [ ];
    initrdUnlock = true;
    keyFile = null;
    type = "luks";
  };
  subvolume = name: mountpoint: internal // {
    inherit name mountpoint;
    extraArgs = [ ];
    mountOptions = [ "compress=zstd" "noatime" ];
    swap = { };
    type = "btrfs_subvol";
  };
  btrfs = subvolumes: device: hooks // internal // {
    inherit device;
    extraArgs = [ "-f" ];
    mountOptions = [ "defaults" ];
    mountpoint = null;
    subvolumes = builtins.mapAttrs subvolume subvolumes;
    swap = { };
    type = "btrfs";
  };

  esp = {
    type = "EF00";
    size = espSize;
    content = filesystem { format = "vfat"; mountpoint = "/boot"; mountOptions = [ "umask=0077" ]; };
  };
  root = filesystem { format = "ext4"; mountpoint = "/"; };

  one = partitions: internal // {
    bcachefs_filesystems = { };
    disk.main = hooks // internal // {
      content = hooks // internal // {
        device = disk;
        efiGptPartitionFirst = true;
        partitions = builtins.mapAttrs (name: p: finish (partition 0 name p)) partitions;
        type = "gpt";
      };
      destroy = true;
      device = disk;
      imageName = "main";
      imageSize = "2G";
      name = "main";
      type = "disk";
    };
    lvm_vg = { };
    mdadm = { };
    nodev = { };
    zpool = { };
  };
  plain = one {
    ESP = esp;
    root = { size = "100%"; content = root; };
  };
in
{
  alpha = plain;
  delta = plain;

  bravo = one {
    ESP = esp;
    luks = {
      size = "100%";
      content = luks { name = "crypted"; passwordFile = "/tmp/disk.key"; content = root; };
    };
  };

  charlie = one {
    ESP = esp;
    swap = { size = "64M"; type = "8200"; content = swap; };
    luks = {
      size = "100%";
      content = luks {
        name = "crypted";
        settings = { allowDiscards = true; fallbackToPassword = true; keyFile = "/tmp/disk.key"; };
        content = btrfs { "/root" = "/"; "/home" = "/home"; "/nix" = "/nix"; };
      };
    };
  };
}
