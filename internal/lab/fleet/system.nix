# Makes the toplevel of a host: the same entries as NixOS's, made of Debian packages, one store path each. It is built on
# x86_64 whatever the host is, so no builder runs a program of an
# arm64 host.
{ settings, system, platform, authorizedKeys }:
let
  script = name: builtins.readFile (./builders + "/${name}");
  build = name: builder: env: derivation ({
    inherit name;
    system = "x86_64-linux";
    builder = "/bin/sh";
    args = [ "-eu" "-c" (script builder) ];
    PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
  } // env);

  # The packages by name, each depending on those that Debian says it does.
  packages = builtins.listToAttrs (map
    (p: {
      inherit (p) name;
      value = build "${p.name}-${p.version}" "package.sh" {
        deb = p.file;
        unwanted = settings.unwanted;
        depends = map (d: packages.${d}) p.depends;
      };
    })
    platform.packages);
  # The named packages and all that they need.
  closure = names: map (p: packages.${p.key}) (builtins.genericClosure {
    startSet = map (key: { inherit key; }) names;
    operator = p: map (key: { inherit key; }) depends.${p.key};
  });
  depends = builtins.listToAttrs (map (p: { inherit (p) name; value = p.depends; }) platform.packages);
  # What lets cryptsetup ask a TPM; some of these names are others in each Debian.
  tpm = builtins.filter (name: builtins.match "systemd|systemd-cryptsetup|libtss2-(esys|mu|rc|tcti-device).*" name != null)
    (builtins.attrNames packages);
  busybox = packages.busybox-static;

  kernel = build "linux-${platform.kernel.version}" "kernel.sh" { tree = platform.kernel.path; inherit (platform.kernel) file; };

  # What the layout says about a running system.
  contents = layout: builtins.concatMap (group: builtins.concatMap walk (builtins.attrValues layout.${group}))
    [ "disk" "mdadm" "lvm_vg" "nodev" "zpool" "bcachefs_filesystems" ];
  walk = c: if c == null then [ ] else {
    disk = walk c.content;
    gpt = builtins.concatMap (p: walk p.content) (builtins.attrValues c.partitions);
    filesystem = [{ kind = "mount"; inherit (c) device mountpoint; fsType = c.format; options = c.mountOptions; }];
    nodev = [{ kind = "mount"; inherit (c) device mountpoint fsType; options = c.mountOptions; }];
    swap = [{ kind = "swap"; inherit (c) device; }];
    luks = [{ kind = "luks"; inherit (c) device name; discard = c.settings.allowDiscards or false; tpm = builtins.elem "tpm2-device=auto" (c.settings.crypttabExtraOpts or [ ]); }] ++ walk c.content;
    btrfs = map
      (s: {
        kind = "mount";
        inherit (c) device;
        inherit (s) mountpoint;
        fsType = "btrfs";
        options = s.mountOptions ++ [ "subvol=${s.name}" ];
      })
      (builtins.attrValues c.subvolumes);
    mdraid = [{ kind = "member"; inherit (c) device name; }];
    mdadm = [{ kind = "raid"; inherit (c) name; }] ++ walk c.content;
    lvm_pv = [ ];
    lvm_vg = [{ kind = "lvm"; inherit (c) name; }] ++ builtins.concatMap (v: walk v.content) (builtins.attrValues c.lvs);
  }.${c.type};
  ofKind = kind: builtins.filter (c: c.kind == kind);
  lines = builtins.concatStringsSep "";
  options = m: builtins.concatStringsSep "," m.options;
in
{ name, layout ? null, parts ? contents layout, config ? { }, modules }:
let
  mounts = builtins.sort (a: b: a.mountpoint < b.mountpoint) (ofKind "mount" parts);
  # What the system keeps elsewhere, as NixOS and impermanence mount it.
  folders = builtins.concatMap
    (it: map (d: { mountpoint = d.directory; device = it.persistentStoragePath + d.directory; fsType = "none"; options = [ "bind" ]; }) it.directories)
    (builtins.attrValues (config.environment.persistence or { }));
  binds = folders ++ builtins.attrValues
    (builtins.mapAttrs (mountpoint: f: f // { inherit mountpoint; }) (config.fileSystems or { }));
  holds = m: b: builtins.substring 0 (builtins.stringLength m.mountpoint) b.device == m.mountpoint;
  early = builtins.filter (m: m.mountpoint == "/" || m.mountpoint == "/nix" || builtins.any (holds m) binds) mounts ++ binds;
  stage1 = config.boot.initrd or { };
  stage1SSH = stage1.network.ssh or { enable = false; };
  luks = ofKind "luks" parts;
  byTPM = builtins.filter (l: l.tpm) luks;
  raids = ofKind "raid" parts;
  groups = ofKind "lvm" parts;
  btrfs = ofKind "btrfs" parts;
  grub = ofKind "grub" parts;
  loader = if grub != [ ] then "grub" else if ofKind "extlinux" parts != [ ] then "extlinux" else "systemd-boot";
  on = list: names: if list == [ ] then [ ] else names;

  sw = build "system-path" "sw.sh" {
    packages = closure ([
      "bash" "busybox-static" "coreutils" "e2fsprogs" "grep" "kmod" "mount" "openssh-client" "openssh-server" "sed"
      "util-linux"
    ] ++ on luks [ "cryptsetup-bin" ]
    ++ on byTPM tpm ++ on raids [ "mdadm" ] ++ on groups [ "lvm2" ] ++ on btrfs [ "btrfs-progs" ]
    ++ { grub = [ "grub-pc-bin" "grub2-common" ]; extlinux = [ ]; systemd-boot = [ "efibootmgr" "systemd-boot-efi" ]; }.${loader});
  };

  initrd = build "initrd-linux-${platform.kernel.version}" "initrd.sh" {
    inherit busybox sw;
    modules = kernel;
    init = script "initrd-init.sh";
    sshPort = if stage1SSH.enable then toString stage1SSH.port else "";
    hostKeys = lines (map (key: "HostKey ${key}\n") (stage1SSH.hostKeys or [ ]));
    askpass = script "askpass.sh";
    udhcpc = script "udhcpc.sh";
    inherit authorizedKeys;
    tpm = if byTPM == [ ] then "" else "1";
    programs = (if stage1SSH.enable then [ "sshd" ] else [ ]) ++ on luks [ "cryptsetup" ] ++ on raids [ "mdadm" ] ++ on groups [ "lvm" ] ++ on btrfs [ "btrfs" ];
    containers = lines (
      map (r: "raid ${r.name}${lines (map (m: " ${m.device}") (builtins.filter (m: m.name == r.name) (ofKind "member" parts)))}\n") raids
      ++ map (l: "luks ${l.name} ${l.device} ${if l.discard then "--allow-discards" else ""}\n") luks
      ++ map (g: "lvm ${g.name}\n") groups
      ++ on btrfs [ "btrfs\n" ]
    );
    mounts = lines (map (m: "${m.device} ${m.mountpoint} ${m.fsType} ${options m}\n") early);
  };

  etc = build "etc" "etc.sh" {
    inherit authorizedKeys busybox sw;
    hostName = name;
    sshPorts = lines (map (port: "Port ${toString port}\n") (config.services.openssh.ports or [ 22 ]));
    loaded = lines (map (m: "${m}\n") modules);
    sealed = ./secrets.age;
    fstab = lines (
      # Where / is a tmpfs, the mount points are not there; systemd would make them.
      map (m: "${m.device} ${m.mountpoint} ${m.fsType} ${options m},X-mount.mkdir 0 0\n") mounts
      ++ map (s: "${s.device} none swap defaults 0 0\n") (ofKind "swap" parts)
    );
    udhcpc = script "udhcpc.sh";
    boot = script "boot.sh";
  };
in
build "nixos-system-${name}-25.05.lab" "toplevel.sh" {
  inherit kernel initrd etc sw busybox;
  hostName = name;
  hostSystem = system;
  inherit (settings) efiEntry;
  init = script "init.sh";
  activate = script "activate.sh";
  switch = script "switch-to-configuration.sh" + script "${loader}.sh";
  persist = if (builtins.head mounts).fsType == "tmpfs" && binds == [ ] then "/nix/persist" else "";
  secrets = lines (builtins.attrValues (builtins.mapAttrs (name: file: "${file} ${name}\n") (stage1.secrets or { })));
  grubDevices = map (g: g.device) grub;
  kernelFile = platform.kernel.file;
  inherit (platform) efi kernelParams;
}
