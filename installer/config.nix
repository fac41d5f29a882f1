configurations:
let
  internal = [
    "_module" "_parent" "_meta" "_create" "_mount" "_unmount" "_config" "_pkgs" "_index" "_name" "_createFilesystem"
    "_packages" "_scripts" "_destroy" "_legacyDestroy" "_disko" "_formatMount" "_destroyFormatMount"
  ];
  keep = set: name: !(builtins.elem name internal) && !(builtins.isFunction set.${name});
  strip = v:
    if builtins.isAttrs v then
      builtins.listToAttrs (map (name: { inherit name; value = strip v.${name}; })
        (builtins.filter (keep v) (builtins.attrNames v)))
    else if builtins.isList v then map strip v
    else v;
  # Disko's module alone makes no layout: all of its groups are empty.
  layoutOf = config:
    let devices = strip (config.disko.devices or null);
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
if builtins.hasAttr "@HOST@" configurations then
  let
    host = configurations."@HOST@";
    devices = layoutOf host.config;
  in
  {
    inherit devices;
    system = host.pkgs.stdenv.hostPlatform.system;
    toplevel =
      if @TOPLEVEL@ then
        let top = host.config.system.build.toplevel;
        in { path = top.drvPath; out = top.outPath; inherit (top) system; }
      else
        null;
    mounts = if devices == null then mountsOf host.config else null;
    expected = (@EXPECTED@) host.config;
  }
else
  { hosts = builtins.attrNames configurations; }
