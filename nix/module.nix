{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib)
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    mkPackageOption
    types
    ;

  cfg = config.services.provision;
  format = pkgs.formats.toml { };
  configFile = format.generate "provision.toml" cfg.settings;

  interfaces = map (interface: lib.head (lib.splitString "=" interface)) cfg.settings.interface;
  httpPort = lib.toInt (lib.removePrefix ":" cfg.settings.http);
in
{
  options.services.provision = {
    enable = mkEnableOption "provision, which netboots machines and installs NixOS on them";

    package = mkPackageOption pkgs "provision" { };

    flake = mkOption {
      type = types.str;
      example = "github:example/fleet";
      description = ''
        Flake whose `nixosConfigurations` are installed: a reference, or the path of a folder.
      '';
    };

    interfaces = mkOption {
      type = types.nonEmptyListOf types.str;
      example = [ "br0" ];
      description = ''
        Network interfaces on the networks of the machines. `NAME=ADDRESS` chooses among several addresses.
      '';
    };

    dhcp = {
      mode = mkOption {
        type = types.enum [
          "proxy"
          "server"
          "off"
        ];
        default = "proxy";
        description = ''
          `proxy` answers beside another DHCP server and hands out no addresses, `server` is the network's DHCP
          server, and `off` serves TFTP and HTTP only.
        '';
      };

      ranges = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.0.0.100-10.0.0.199" ];
        description = ''
          Addresses to hand out, one range for each network, in mode `server`. A range behind a relay agent ends in
          its prefix length, as in `10.1.0.100-10.1.0.199/24`.
        '';
      };

      router = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "10.0.0.1";
        description = "Default route to hand out, in mode `server`.";
      };

      dns = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.0.0.1" ];
        description = "DNS servers to hand out, in mode `server`.";
      };

      domain = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "example.org";
        description = "Domain to hand out, in mode `server`.";
      };

      lease = mkOption {
        type = types.str;
        default = "1h";
        example = "30m";
        description = "How long a lease lasts, in mode `server`; a minute at least.";
      };
    };

    unknown = mkOption {
      type = types.enum [
        "ignore"
        "lease"
        "hold"
      ];
      default = "ignore";
      description = ''
        What machines get that are not enrolled: nothing; with `lease`, in mode `server`, an address and nothing to
        boot; or with `hold` a screen that tells how to enroll them.
      '';
    };

    group = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "provision";
      description = ''
        Group whose members may use the server. They are as good as root: they can erase machines, and have the server
        build and deliver what they say.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to open the ports for DHCP, TFTP and HTTP in the firewall, on {option}`services.provision.interfaces`.
      '';
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = format.type;

        options.http = mkOption {
          type = types.str;
          default = ":80";
          example = ":8080";
          description = "Port that machines fetch kernel and initrd from.";
        };
      };
      default = { };
      example = {
        builds = 4;
        relay = [ "10.1.0.0/24" ];
      };
      description = ''
        Options of `provision serve`, without the dashes; see `provision serve --help`. The other options of this
        module set their defaults. They are readable by all users in the Nix store.
      '';
    };

    images = mkOption {
      type = types.attrsOf (
        types.submodule {
          options = {
            from = mkOption {
              type = types.str;
              example = "https://github.com/nix-community/nixos-images/releases/download/nixos-25.11";
              description = "Where the image is: a URL, a flake reference or a path; see `provision images add --help`.";
            };

            arch = mkOption {
              type = types.nullOr (
                types.enum [
                  "x86_64"
                  "aarch64"
                ]
              );
              default = null;
              description = "Architecture to take, if there are several.";
            };

            sha256 = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" ];
              description = "Digests that files of the source must have: `FILE=HEX`, or `HEX` for the only one.";
            };
          };
        }
      );
      default = { };
      description = ''
        Installer images, which are fetched when the server runs, unless it has one of that name and source. Images
        that are not named here any more stay.
      '';
    };
  };

  config = mkIf cfg.enable {
    services.provision.settings = {
      flake = mkDefault cfg.flake;
      interface = mkDefault cfg.interfaces;
      dhcp = mkDefault cfg.dhcp.mode;
      dhcp-range = mkIf (cfg.dhcp.ranges != [ ]) (mkDefault cfg.dhcp.ranges);
      dhcp-router = mkIf (cfg.dhcp.router != null) (mkDefault cfg.dhcp.router);
      dhcp-dns = mkIf (cfg.dhcp.dns != [ ]) (mkDefault cfg.dhcp.dns);
      dhcp-domain = mkIf (cfg.dhcp.domain != null) (mkDefault cfg.dhcp.domain);
      dhcp-lease = mkDefault cfg.dhcp.lease;
      unknown = mkDefault cfg.unknown;
      socket-group = mkIf (cfg.group != null) (mkDefault cfg.group);
    };

    assertions = [
      {
        assertion = (cfg.settings.dhcp == "server") == (cfg.settings ? dhcp-range);
        message = ''
          services.provision.dhcp.ranges goes with services.provision.dhcp.mode = "server", which needs one range at
          least.
        '';
      }
    ];

    environment.systemPackages = [ cfg.package ];
    environment.variables = mkIf (cfg.settings ? socket) { PROVISION_SOCKET = cfg.settings.socket; };

    users.groups = mkIf (cfg.group != null) { ${cfg.group} = { }; };

    networking.firewall.interfaces = mkIf cfg.openFirewall (
      lib.genAttrs interfaces (_: {
        allowedTCPPorts = [ httpPort ];
        allowedUDPPorts = [
          69 # TFTP
        ]
        ++ lib.optionals (cfg.settings.dhcp != "off") [
          67 # DHCP
          547 # DHCPv6, which is answered so that firmware does not wait for it
          4011 # PXE boot server
        ];
      })
    );

    systemd.services.provision = {
      description = "Netboot machines and install NixOS on them";
      wantedBy = [ "multi-user.target" ];
      # Interfaces may come late, and the clock may be set late: the server waits for both.
      after = [
        "network.target"
        "nss-lookup.target"
        "nix-daemon.socket"
      ];
      requires = [ "nix-daemon.socket" ];
      path = [
        config.nix.package
        pkgs.bash
        pkgs.git
        pkgs.openssh
      ];
      environment.NIX_REMOTE = "daemon";
      startLimitIntervalSec = 60;
      startLimitBurst = 5;
      # What is taken away, and what cannot be: packaging/provision.service and packaging/nix-daemon.conf.
      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} serve --config ${configFile}";
        User = "root"; # systemd sets HOME then
        Restart = "on-failure";
        RestartSec = 2;
        TimeoutStartSec = "infinity";
        WatchdogSec = "2min";
        OOMPolicy = "continue";
        StateDirectory = "provision";
        StateDirectoryMode = "0700";
        RuntimeDirectory = "provision";
        RuntimeDirectoryMode = "0755";
        CapabilityBoundingSet = [
          "CAP_NET_BIND_SERVICE"
          "CAP_NET_RAW"
          "CAP_NET_ADMIN"
          "CAP_SETUID"
          "CAP_SETGID"
          "CAP_CHOWN"
          "CAP_FOWNER"
          "CAP_DAC_OVERRIDE"
          "CAP_KILL"
        ];
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_PACKET"
        ];
        NoNewPrivileges = true;
        ProtectSystem = "full";
        ProtectControlGroups = true;
        ProtectKernelModules = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        PrivateDevices = true;
        ProtectKernelTunables = true;
        ProtectKernelLogs = true;
        ProtectClock = true;
        ProtectHostname = true;
        RestrictNamespaces = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [ "@system-service" ];
        SystemCallErrorNumber = "EPERM";
      };
    };

    systemd.services.provision-images = mkIf (cfg.images != { }) {
      description = "Fetch installer images for provision";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "provision.service"
      ];
      requires = [ "provision.service" ];
      path = [
        cfg.package
        pkgs.jq
      ];
      environment = lib.optionalAttrs (cfg.settings ? socket) { PROVISION_SOCKET = cfg.settings.socket; };
      script = ''
        has() {
          provision images list --json | jq --exit-status --arg name "$1" --arg from "$2" \
            'any(.[]; .name == $name and .from == $from)' > /dev/null
        }
      ''
      + lib.concatStrings (
        lib.mapAttrsToList (name: image: ''
          has ${
            lib.escapeShellArgs [
              name
              image.from
            ]
          } || provision images add ${
            lib.escapeShellArgs (
              [
                name
                "--from"
                image.from
              ]
              ++ lib.optionals (image.arch != null) [
                "--arch"
                image.arch
              ]
              ++ lib.concatMap (digest: [
                "--sha256"
                digest
              ]) image.sha256
            )
          }
        '') cfg.images
      );
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        Restart = "on-failure";
        RestartSec = "1min";
      };
    };
  };
}
