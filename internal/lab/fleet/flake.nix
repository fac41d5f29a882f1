# A fleet of three hosts without nixpkgs: what provision reads of a flake is here in the shape that NixOS and disko give
# it, and what it installs are small bootable systems made of Debian packages.
{
  description = "provision's lab fleet";

  outputs = { self }:
    let
      settings = builtins.fromJSON (builtins.readFile ./settings.json);
      layouts = import ./layouts.nix { inherit (settings) disk espSize luksFormatArgs; };
      system = import ./system.nix {
        inherit settings;
        authorizedKeys = builtins.readFile ./authorized_keys;
      };
      host = name: layout: {
        config = {
          networking.hostName = name;
          disko.devices = layout;
          system.build.toplevel = system { inherit name layout; };
        };
        pkgs.stdenv.hostPlatform.system = "x86_64-linux";
      };
    in
    {
      nixosConfigurations = builtins.mapAttrs host layouts;
    };
}
