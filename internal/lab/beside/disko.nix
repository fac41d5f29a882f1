# What disko makes of a layout: its own scripts and the evaluated devices, as JSON. It needs disko's source and the lib
# of nixpkgs, but no packages: the scripts find their tools in PATH, as disko's "NoDeps" ones do.
#   nix-instantiate --eval --strict --json disko.nix --arg disko FOLDER --arg lib FOLDER --arg layout FILE --argstr disks "/dev/vda /dev/vdb"
# The layout's disks become those given, in byte order of their names.
{ disko, lib, layout, disks, unmounts ? true }:
let
  nixpkgs = import lib;
  inherit (nixpkgs) filterAttrs isAttrs isList mapAttrs;
  # Each release takes some of these.
  makeLib = import (disko + "/lib");
  diskoLib = makeLib (builtins.intersectAttrs (builtins.functionArgs makeLib) {
    lib = nixpkgs;
    makeTest = null;
    eval-config = null;
    qemu-common = null;
    rootMountPoint = "/mnt";
  });

  # An example is a module, a function to one, or (stand-alone) a NixOS configuration that imports disko by itself.
  example =
    let
      same = _: _: { config = cfg: cfg; };
      m = builtins.scopedImport { import = same; } layout;
      module = if builtins.isFunction m then m { lib = nixpkgs; pkgs = { }; } else m;
    in
    if module ? imports then builtins.head module.imports else module;

  # Evaluated devices as options again: without nulls, and without the devices that disko works out.
  options = v:
    if isAttrs v then mapAttrs (_: options) (filterAttrs (n: x: (x != null || n == "mountpoint") && !(n == "device" && isComputed v)) v)
    else if isList v then map options v
    else v;
  isComputed = v: v ? type && !(builtins.elem v.type [ "disk" "nodev" ]);

  given = if nixpkgs.hasSuffix ".json" (toString layout) then options (nixpkgs.importJSON layout) else example.disko.devices;
  names = builtins.attrNames given.disk;
  nodes = nixpkgs.splitString " " disks;
  moved = given // {
    disk = builtins.listToAttrs (nixpkgs.imap0
      (i: name: { inherit name; value = given.disk.${name} // { device = builtins.elemAt nodes i; }; }) names);
  };
  devices = (nixpkgs.evalModules {
    modules = [{
      options.disko.devices = nixpkgs.mkOption { type = diskoLib.toplevel; };
      config.disko.devices = moved;
    }];
  }).config.disko.devices;
  strip = import ./strip.nix;
in
{
  script = devices._disko;
  create = devices._create;
  mount = devices._mount;
  unmount = if unmounts then devices._unmount else "";
  devices = strip devices;
  count = builtins.length names;
}
