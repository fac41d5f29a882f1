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
in
if builtins.hasAttr "@HOST@" configurations then
  let host = configurations."@HOST@"; in {
    system = host.pkgs.stdenv.hostPlatform.system;
    devices = strip (host.config.disko.devices or null);
    hostKeys = map (key: key.path)
      (builtins.filter (key: key.type or "" == "ed25519") (host.config.services.openssh.hostKeys or [ ]));
  }
else
  { hosts = builtins.attrNames configurations; }
