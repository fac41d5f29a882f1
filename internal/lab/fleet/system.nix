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
  all = builtins.attrValues packages;
  busybox = packages.busybox-static;

  kernel = build "linux-${platform.kernel.version}" "kernel.sh" { tree = platform.kernel.path; inherit (platform.kernel) file; };
  sw = build "system-path" "sw.sh" { packages = all; };

  # What the layout says about a running system.
  contents = layout: builtins.concatMap
    (d: builtins.concatMap (p: walk p.content) (builtins.attrValues d.content.partitions))
    (builtins.attrValues layout.disk);
  walk = c: {
    filesystem = [{ kind = "mount"; inherit (c) device mountpoint; fsType = c.format; options = c.mountOptions; }];
    swap = [{ kind = "swap"; inherit (c) device; }];
    luks = [{ kind = "luks"; inherit (c) device name; discard = c.settings.allowDiscards or false; }] ++ walk c.content;
    btrfs = map
      (s: {
        kind = "mount";
        inherit (c) device;
        inherit (s) mountpoint;
        fsType = "btrfs";
        options = s.mountOptions ++ [ "subvol=${s.name}" ];
      })
      (builtins.attrValues c.subvolumes);
  }.${c.type};
  ofKind = kind: builtins.filter (c: c.kind == kind);
  lines = builtins.concatStringsSep "";
  options = m: builtins.concatStringsSep "," m.options;
in
{ name, layout }:
let
  parts = contents layout;
  mounts = builtins.sort (a: b: a.mountpoint < b.mountpoint) (ofKind "mount" parts);
  early = builtins.filter (m: m.mountpoint == "/" || m.mountpoint == "/nix") mounts;

  initrd = build "initrd-linux-${platform.kernel.version}" "initrd.sh" {
    inherit busybox sw;
    modules = kernel;
    init = script "initrd-init.sh";
    luks = lines (map (l: "${l.device} ${l.name} ${if l.discard then "--allow-discards" else ""}\n") (ofKind "luks" parts));
    mounts = lines (map (m: "${m.device} ${m.mountpoint} ${m.fsType} ${options m}\n") early);
  };

  etc = build "etc" "etc.sh" {
    inherit authorizedKeys busybox sw;
    hostName = name;
    fstab = lines (
      map (m: "${m.device} ${m.mountpoint} ${m.fsType} ${options m} 0 0\n") mounts
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
  efiEntry = if settings.efiEntry then "1" else "";
  init = script "init.sh";
  activate = script "activate.sh";
  switch = script "switch-to-configuration.sh";
  loader = packages.systemd-boot-efi;
  kernelFile = platform.kernel.file;
  inherit (platform) efi kernelParams;
}
