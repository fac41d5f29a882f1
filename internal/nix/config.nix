configurations:
let
  internal = [
    "_module" "_parent" "_meta" "_create" "_mount" "_unmount" "_config" "_pkgs" "_index" "_name" "_createFilesystem"
    "_packages" "_scripts" "_destroy" "_legacyDestroy" "_disko" "_formatMount" "_destroyFormatMount"
  ];
  keep = set: name: !(builtins.elem name internal) && !(builtins.isFunction set.${name});
  # A disk's device may be left to --disk: `device = throw "…"`. What is on the disk itself has the same device.
  evaluates = value: (builtins.tryEval (builtins.deepSeq value null)).success;
  leaves = v: builtins.isAttrs v && v ? device && !(evaluates v.device);
  place = name: v:
    if builtins.isAttrs v then
      v // (if leaves v then { device = "/dev/disk/by-id/left-to-disk-${name}"; } else { })
        // (if v ? content then { content = place name v.content; } else { })
    else v;
  disksOf = config:
    let d = config.disko.devices.disk or { };
    in if builtins.isAttrs d then d else { };
  strip = v:
    if builtins.isAttrs v then
      builtins.listToAttrs (map (name: { inherit name; value = strip v.${name}; })
        (builtins.filter (keep v) (builtins.attrNames v)))
    else if builtins.isList v then map strip v
    else v;
  # Disko's module alone makes no layout: all of its groups are empty.
  layoutOf = config:
    let
      set = config.disko.devices or null;
      disk = builtins.mapAttrs place (disksOf config);
      devices = strip (if builtins.isAttrs set && set ? disk then set // { inherit disk; } else set);
    in if devices == null || builtins.all (group: devices.${group} == { }) (builtins.attrNames devices) then null else devices;
  mountsOf = config: {
    fileSystems = map (point: { mountPoint = point; device = null; fsType = "auto"; options = [ ]; } // attrsOf [ "mountPoint" "device" "fsType" "options" ] config.fileSystems.${point})
      (builtins.attrNames (config.fileSystems or { }));
    luks = map (name: { inherit name; inherit (config.boot.initrd.luks.devices.${name}) device; })
      (builtins.attrNames (config.boot.initrd.luks.devices or { }));
    swaps = map (swap: swap.device) (config.swapDevices or [ ]);
  };
  attrsOf = names: set: builtins.intersectAttrs (builtins.listToAttrs (map (name: { inherit name; value = null; }) names)) set;
in
if builtins.hasAttr @HOST@ configurations then
  let
    host = configurations.@HOST@;
    devices = layoutOf host.config;
  in
  {
    inherit devices;
    leftDisks = let disks = disksOf host.config; in builtins.filter (name: leaves disks.${name}) (builtins.attrNames disks);
    system = host.pkgs.stdenv.hostPlatform.system;
    builds = builtins.listToAttrs (map
      (name: {
        inherit name;
        value =
          let drv = host.config.system.build.${name};
          in { path = drv.drvPath; out = drv.outPath; inherit (drv) system; };
      })
      @BUILDS@);
    mounts = if devices == null then mountsOf host.config else null;
    expected = (@EXPECTED@) host.config;
  }
else
  { hosts = builtins.attrNames configurations; }
