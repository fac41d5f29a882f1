# What nix/module.nix makes of some options of services.provision, with the rest of NixOS left out.
{
  lib,
  module,
  services,
}:
let
  pkgs = {
    provision = {
      type = "derivation";
      name = "provision";
      outPath = "/usr";
      meta.mainProgram = "provision";
    };
    bash = "/bash";
    git = "/git";
    jq = "/jq";
    openssh = "/openssh";
    formats.toml = _: {
      type =
        with lib.types;
        attrsOf (oneOf [
          bool
          int
          str
          (listOf str)
        ]);
      generate = name: value: "/etc/${name}";
    };
  };
  anything = lib.mkOption {
    type = lib.types.attrsOf lib.types.anything;
    default = { };
  };
  eval = lib.evalModules {
    modules = [
      module
      {
        options = {
          environment = anything;
          networking = anything;
          nix = anything;
          systemd = anything;
          users = anything;
          assertions = lib.mkOption { type = lib.types.listOf lib.types.attrs; };
        };
        config = {
          _module.args = { inherit pkgs; };
          nix.package = "/nix";
          services.provision = {
            enable = true;
          }
          // services;
        };
      }
    ];
  };
in
{
  inherit (eval.config.services.provision) settings;
  inherit (eval.config) users;
  service = eval.config.systemd.services.provision;
  images = (eval.config.systemd.services.provision-images or { }).script or "";
  firewall = eval.config.networking.firewall.interfaces or { };
  wrong = map (a: a.message) (lib.filter (a: !a.assertion) eval.config.assertions);
  # Each option says what it is, and what one would write.
  undescribed = map (o: o.name) (
    lib.filter (
      o: !o.internal && lib.hasPrefix "services." o.name && !((o.description or null) != null && (o ? default || o ? example))
    ) (lib.optionAttrSetToDocList eval.options)
  );
}
