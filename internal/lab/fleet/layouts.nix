# The disks of the hosts, as `config.disko.devices` is once disko has evaluated it: every option is there with its
# default, device names are worked out, and some attributes are functions, so that a plain `nix eval --json` fails.
{ disk, secondDisk, espSize, luksFormatArgs }:
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

  # Content is a function of the device that it lies on.
  none = device: null;
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
  luks = { name, content, passwordFile ? null, additionalKeyFiles ? [ ], settings ? { } }: device: hooks // internal // {
    inherit device name passwordFile additionalKeyFiles settings;
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
  mdraid = name: device: hooks // internal // { inherit device name; type = "mdraid"; };
  lvmPV = vg: device: hooks // internal // { inherit device vg; type = "lvm_pv"; };

  esp = content: { type = "EF00"; size = espSize; inherit content; };
  boot = filesystem { format = "vfat"; mountpoint = "/boot"; mountOptions = [ "umask=0077" ]; };
  ext4 = mountpoint: filesystem { format = "ext4"; inherit mountpoint; };
  root = ext4 "/";

  # A disk, with a GPT of these partitions.
  gpt = device: partitions: name: hooks // internal // {
    inherit device name;
    content = hooks // internal // {
      inherit device;
      efiGptPartitionFirst = true;
      partitions = builtins.mapAttrs (partition name) partitions;
      type = "gpt";
    };
    destroy = true;
    imageName = name;
    imageSize = "2G";
    type = "disk";
  };
  partition = disk: name: { type ? "8300", size, content ? none, label ? "disk-${disk}-${name}" }:
    let
      device = "/dev/disk/by-partlabel/${label}";
    in
    {
      inherit device label name size type;
      alignment = 0;
      attributes = [ ];
      content = content device;
      end = if size == "100%" then "-0" else "+${size}";
      hybrid = null;
      priority = if size == "100%" then 9001 else 1000;
      start = "0";
      uuid = null;
    };
  # A mirror that misses nothing on disks that are blank.
  mirror = metadata: content: name: hooks // internal // {
    inherit name metadata;
    content = content "/dev/md/${name}";
    extraArgs = [ "--assume-clean" ];
    level = 1;
    type = "mdadm";
  };
  volumeGroup = volumes: name: hooks // internal // {
    inherit name;
    lvs = builtins.mapAttrs (volume name) volumes;
    type = "lvm_vg";
  };
  volume = group: name: { size, content }: internal // {
    inherit name size;
    content = content "/dev/${group}/${name}";
    extraArgs = [ ];
    lvm_type = null;
    pool = null;
    priority = if builtins.match "100%.*" size == null then 1000 else 1251;
  };
  tmpfs = mountOptions: mountpoint: hooks // internal // {
    inherit mountOptions mountpoint;
    device = "tmpfs";
    fsType = "tmpfs";
    type = "nodev";
  };

  # All groups are there, and each thing in them knows its name.
  devices = groups: internal // builtins.mapAttrs (group: builtins.mapAttrs (name: make: make name)) ({
    bcachefs_filesystems = { };
    disk = { };
    lvm_vg = { };
    mdadm = { };
    nodev = { };
    zpool = { };
  } // groups);
  one = partitions: devices { disk.main = gpt disk partitions; };
  plain = one {
    ESP = esp boot;
    root = { size = "100%"; content = root; };
  };
  mirrored = {
    boot = esp (mdraid "boot");
    root = { type = "FD00"; size = "100%"; content = mdraid "root"; };
  };
in
{
  alpha = plain;
  delta = plain;

  bravo = one {
    ESP = esp boot;
    luks = {
      size = "100%";
      content = luks { name = "crypted"; passwordFile = "/tmp/disk.key"; content = root; };
    };
  };

  kilo = one {
    ESP = esp boot;
    luks = {
      size = "100%";
      content = luks {
        name = "crypted";
        passwordFile = "/tmp/disk.key";
        settings.crypttabExtraOpts = [ "tpm2-device=auto" ];
        content = root;
      };
    };
  };

  charlie = one {
    ESP = esp boot;
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

  echo = devices {
    disk.main = gpt disk {
      ESP = esp boot;
      luks = {
        size = "100%";
        content = luks { name = "crypted"; passwordFile = "/tmp/disk.key"; content = lvmPV "pool"; };
      };
    };
    lvm_vg.pool = volumeGroup {
      root = { size = "60%FREE"; content = root; };
      swap = { size = "64M"; content = swap; };
      home = { size = "100%FREE"; content = ext4 "/home"; };
    };
  };

  foxtrot = devices {
    disk.first = gpt disk mirrored;
    disk.second = gpt secondDisk mirrored;
    # With metadata 1.0, which are at the end, the firmware sees a plain FAT on each disk.
    mdadm.boot = mirror "1.0" boot;
    mdadm.root = mirror "default" root;
  };

  hotel = devices {
    disk.main = gpt disk {
      ESP = esp boot;
      nix = { size = "100%"; content = ext4 "/nix"; };
    };
    nodev."/" = tmpfs [ "size=256M" "mode=755" ];
  };

  november = one {
    ESP = esp boot;
    luks = {
      size = "100%";
      content = luks { name = "crypted"; passwordFile = "/tmp/disk.key"; content = root; };
    };
  };

  oscar = devices {
    disk.main = gpt disk {
      ESP = esp boot;
      persist = { size = "256M"; content = ext4 "/persist"; };
      nix = { size = "100%"; content = ext4 "/nix"; };
    };
    nodev."/" = tmpfs [ "size=256M" "mode=755" ];
  };

  # Beside a Windows, in its EFI partition.
  juliett = devices {
    disk.main = name: gpt disk
      {
        ESP = esp boot // { label = "SYSTEM"; };
        data = {
          size = "128M";
          content = luks {
            name = "vault";
            passwordFile = "/tmp/disk.key";
            additionalKeyFiles = [ "/tmp/data.key" ];
            content = ext4 "/data";
          };
        };
        root = {
          size = "100%";
          content = luks { name = "crypted"; passwordFile = "/tmp/disk.key"; content = root; };
        };
      }
      name // { destroy = false; };
  };
}
