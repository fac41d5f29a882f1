let
  internal = [ "_module" "_parent" "_meta" "_create" "_mount" "_unmount" "_config" "_pkgs" "_index" "_name"
    "_createFilesystem" "_packages" "_scripts" "_destroy" "_legacyDestroy" "_disko" "_formatMount" "_destroyFormatMount" ];
  strip = v:
    if builtins.isAttrs v then
      builtins.listToAttrs (builtins.concatMap
        (n: if builtins.elem n internal || builtins.isFunction v.${n} then [ ] else [{ name = n; value = strip v.${n}; }])
        (builtins.attrNames v))
    else if builtins.isList v then map strip v
    else v;
in strip
