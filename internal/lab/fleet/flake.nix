# A fleet of hosts without nixpkgs: what provision reads of a flake is here in the shape that NixOS and disko give
# it, and what it installs are small bootable systems made of Debian packages.
{
  description = "provision's lab fleet";

  outputs = { self }:
    let
      settings = builtins.fromJSON (builtins.readFile ./settings.json);
      layouts = import ./layouts.nix { inherit (settings) disk secondDisk espSize luksFormatArgs; };
      configurations = import ./configurations.nix;
      india = import ./script.nix { layout = layouts.alpha; inherit (settings) disk espSize; };
      toplevels = builtins.mapAttrs
        (system: platform: import ./system.nix {
          inherit settings system platform;
          authorizedKeys = builtins.readFile ./authorized_keys;
        })
        settings.platforms;
      systemOf = name: if name == "delta" then "aarch64-linux" else "x86_64-linux";
      # The modules that `nixos-generate-config --show-hardware-config` found, if it was asked.
      found = name:
        let
          file = ./. + "/hosts/${name}/hardware-configuration.nix";
          it = import file;
          args = { config = { }; pkgs = { }; modulesPath = ""; lib.mkDefault = x: x; };
          module = if builtins.isFunction it then it args else it;
        in
        if builtins.pathExists file then module.boot.initrd.availableKernelModules or [ ] else [ ];
      host = name: layout: {
        config = configurations.${name} or { } // {
          networking.hostName = name;
          disko.devices = layout;
          system.build = {
            toplevel = toplevels.${systemOf name} {
              inherit name layout;
              config = configurations.${name} or { };
              modules = found name;
            };
          } // (if name == "india" then { diskoScript = india.script; } else { });
        };
        pkgs.stdenv.hostPlatform.system = systemOf name;
      };
      # What a stage 1 must know beside the file systems: NixOS finds arrays, volume groups and btrfs by udev.
      containers = fileSystems:
        let
          devices = map (f: f.device) (builtins.attrValues fileSystems);
          names = pattern: builtins.attrNames (builtins.listToAttrs (builtins.concatMap
            (device: let it = builtins.match pattern device; in if it == null then [ ] else [{ name = builtins.head it; value = null; }])
            devices));
        in
        map (name: { kind = "raid"; inherit name; }) (names "/dev/md/([^/]+)")
        ++ map (name: { kind = "lvm"; inherit name; }) (builtins.filter (name: name != "md" && name != "mapper") (names "/dev/([^/]+)/[^/]+"))
        ++ (if builtins.any (f: f.fsType == "btrfs") (builtins.attrValues fileSystems) then [{ kind = "btrfs"; }] else [ ]);
      # A host without disko, whose configuration says the file systems: those in its file, or these.
      bare = name: system: loader: fileSystems:
        let
          file = ./. + "/hosts/${name}/filesystems.nix";
          own = if builtins.pathExists file then import file else { inherit fileSystems; };
          each = f: set: builtins.attrValues (builtins.mapAttrs f set);
        in
        {
          config = own // {
            networking.hostName = name;
            system.build.toplevel = toplevels.${system} {
              inherit name;
              modules = [ ];
              parts = each (mountpoint: f: f // { kind = "mount"; inherit mountpoint; }) own.fileSystems
                ++ loader
                ++ map (device: { kind = "grub"; inherit device; }) (own.boot.loader.grub.devices or [ ])
                ++ containers own.fileSystems
                ++ map (swap: { kind = "swap"; inherit (swap) device; }) (own.swapDevices or [ ])
                ++ each (name: l: { kind = "luks"; inherit name; inherit (l) device; discard = l.allowDiscards; tpm = false; })
                (own.boot.initrd.luks.devices or { });
            };
          };
          pkgs.stdenv.hostPlatform.system = system;
        };
      # Of the layout presets ext4 and rpi4.
      lima = bare "lima" "x86_64-linux" [ ] {
        "/" = { device = "/dev/disk/by-partlabel/disk-main-root"; fsType = "ext4"; options = [ "defaults" ]; };
        "/boot" = { device = "/dev/disk/by-partlabel/disk-main-ESP"; fsType = "vfat"; options = [ "umask=0077" ]; };
      };
      mike = bare "mike" "aarch64-linux" [{ kind = "extlinux"; }] {
        "/" = { device = "/dev/disk/by-partlabel/disk-main-root"; fsType = "ext4"; options = [ "defaults" ]; };
        "/boot/firmware" = { device = "/dev/disk/by-partlabel/disk-main-firmware"; fsType = "vfat"; options = [ "defaults" ]; };
      };
    in
    {
      nixosConfigurations = {
        inherit lima;
      } // (if settings.platforms ? aarch64-linux then { inherit mike; } else { }) // builtins.mapAttrs host
        (builtins.removeAttrs (layouts // { india = india.layout; })
          (if settings.platforms ? aarch64-linux then [ ] else [ "delta" ]));
    };
}
