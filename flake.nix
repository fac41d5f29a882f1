{
  description = "Netboot machines and install NixOS on them from a flake";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forAllSystems = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      version = "0-unstable-${builtins.substring 0 8 (self.lastModifiedDate or "19700101")}";
    in
    {
      overlays.default = final: _prev: {
        provision = final.callPackage ./nix/package.nix { inherit version; };
      };

      packages = forAllSystems (system: {
        provision = nixpkgs.legacyPackages.${system}.callPackage ./nix/package.nix { inherit version; };
        default = self.packages.${system}.provision;
      });

      nixosModules = {
        provision =
          { pkgs, ... }:
          {
            imports = [ ./nix/module.nix ];
            services.provision.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.provision;
          };
        default = self.nixosModules.provision;
      };

      checks = forAllSystems (system: {
        package = self.packages.${system}.provision;
        module = nixpkgs.legacyPackages.${system}.testers.runNixOSTest {
          imports = [ ./nix/test.nix ];
          defaults.imports = [ self.nixosModules.default ];
        };
      });

      devShells = forAllSystems (
        system:
        let
          pkgs = nixpkgs.legacyPackages.${system};
        in
        {
          # The tests themselves run on Debian and Ubuntu: docs/testbed.md.
          default = pkgs.mkShell {
            inputsFrom = [ self.packages.${system}.provision ];
            packages = [
              pkgs.go-tools
              pkgs.gopls
            ];
          };
        }
      );

      formatter = forAllSystems (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
