# An installer to netboot, for those who want to build their own:
#
#   provision images add nixos --from "path:images/nix#packages.x86_64-linux.netboot"
#
# To change it, import nixosModules.installer in a nixosConfiguration of your own flake, and name that with --from.
{
  description = "The NixOS installer that provision boots";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    {
      nixosModules.installer = ./netboot-installer.nix;

      packages = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: {
        netboot =
          (nixpkgs.lib.nixosSystem {
            modules = [
              self.nixosModules.installer
              { nixpkgs.hostPlatform = system; }
            ];
          }).config.system.build.netboot;
        default = self.packages.${system}.netboot;
      });
    };
}
