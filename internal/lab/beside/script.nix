# disko's own script for a layout, as a store path, for who runs it by its name. Arguments as of disko.nix.
{ disko, lib, layout, disks }@args:
let
  inherit (import ./disko.nix args) script;
in
derivation {
  name = "disko";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-euc" ''{ echo '#!/bin/bash' && cat "$scriptPath"; } >"$out"; chmod 0555 "$out"'' ];
  PATH = "/usr/bin:/bin";
  inherit script;
  passAsFile = [ "script" ];
}
