# Hosts that show themselves on the network, or do not, in many ways. Nothing but what matters is in them: all else is
# missing, as in a flake of another kind.
{
  outputs = { self }:
    let
      ed = path: { type = "ed25519"; inherit path; };
      rsa = path: { type = "rsa"; bits = 4096; inherit path; };
      usual = [ (rsa "/etc/ssh/ssh_host_rsa_key") (ed "/etc/ssh/ssh_host_ed25519_key") ];
      # NixOS copies a key that is a path of the flake into the store by a derivation, which holds all of stdenv.
      copied = { type = "derivation"; outPath = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-ssh_host_ed25519_key"; stdenv = abort "no end of it"; };
      shut = { enable = true; allowedTCPPorts = [ 80 ]; allowedTCPPortRanges = [ ]; };
      memory = { "/" = { device = "none"; fsType = "tmpfs"; options = [ "mode=755" ]; }; "/persist" = { device = "/dev/vda2"; fsType = "ext4"; }; };
      subvolumes = { "/" = { device = "/dev/vda2"; fsType = "btrfs"; options = [ "subvol=root" ]; }; "/keep" = { device = "/dev/vda2"; fsType = "btrfs"; options = [ "subvol=keep" ]; }; };
    in
    {
      nixosConfigurations = builtins.mapAttrs (name: config: { inherit config; pkgs.stdenv.hostPlatform.system = "x86_64-linux"; }) {
        bare = { };
        broken = {
          networking = throw "no network";
          services.openssh = { enable = throw "not said"; ports = "22"; hostKeys = [ 7 { } ]; listenAddresses = [ { addr = throw "x"; } ]; };
          boot.initrd.network.ssh = { enable = 1; hostKeys = throw "x"; };
          environment.persistence = { "/persist".files = throw "x"; "/other".files = [ { } "/etc/ssh/ssh_host_ed25519_key" ]; };
        };
        other-port = { networking.hostName = "Other"; services.openssh = { enable = true; ports = [ 2222 ]; hostKeys = usual; }; };
        addresses = { services.openssh = { enable = true; ports = [ 22 ]; listenAddresses = [ { addr = "127.0.0.1"; port = 22; } { addr = "0.0.0.0"; port = 2200; } { addr = "::"; port = null; } ]; }; };
        loopback = { services.openssh = { enable = true; ports = [ 22 ]; listenAddresses = [ { addr = "::1"; port = null; } ]; }; };
        without = { services.openssh = { enable = false; ports = [ 22 ]; hostKeys = usual; }; };
        only-rsa = { services.openssh = { enable = true; hostKeys = [ (rsa "/etc/ssh/ssh_host_rsa_key") ]; }; };
        shut = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut; };
        ranges = { services.openssh = { enable = true; ports = [ 2022 ]; openFirewall = false; }; networking.firewall = shut // { allowedTCPPortRanges = [ { from = 2000; to = 2100; } ]; }; };
        off = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { enable = false; }; };
        vpn = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { trustedInterfaces = [ "lo" "wg0" ]; interfaces.tailscale0.allowedTCPPorts = [ 22 ]; }; };
        lan = { services.openssh = { enable = true; ports = [ 22 ]; openFirewall = false; }; networking.firewall = shut // { interfaces.enp1s0.allowedTCPPorts = [ 22 ]; }; };
        stage1 = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network.ssh = { enable = true; port = 2222; hostKeys = [ "/etc/secrets/initrd/ssh_host_ed25519_key" ]; }; };
        stage1-own = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ /etc/ssh/ssh_host_ed25519_key ]; }; }; };
        stage1-same = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ "/etc/ssh/ssh_host_ed25519_key" "/etc/ssh/ssh_host_rsa_key" ]; }; }; };
        stage1-off = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd.network = { enable = false; ssh = { enable = true; port = 22; hostKeys = [ "/etc/ssh/ssh_host_ed25519_key" ]; }; }; };
        stage1-built = { services.openssh = { enable = true; ports = [ 22 ]; hostKeys = usual; };
          boot.initrd = { network = { enable = true; ssh = { enable = true; port = 22; hostKeys = [ copied ]; }; }; secrets."/etc/ssh/copied" = copied; }; };
        new = { fileSystems = memory; services.openssh = { enable = true; hostKeys = usual; }; };
        by-files = { fileSystems = memory; environment.persistence."/persist".files = [ "/etc/machine-id" { file = "/etc/ssh/ssh_host_ed25519_key"; } ]; };
        by-folders = { fileSystems = memory; environment.persistence.store = { persistentStoragePath = "/persist/system"; directories = [ { directory = "/etc/ssh"; mode = "0755"; } "/var/lib" ]; users.ada = { home = "/home/a"; directories = [ ".keys" ]; }; }; };
        disabled = { fileSystems = memory; environment.persistence."/persist" = { enable = false; directories = [ "/etc/ssh" ]; }; };
        preserved = { fileSystems = memory; preservation.preserveAt."/persist".directories = [ "/etc/ssh" ]; };
        by-bind = { fileSystems = memory // { "/etc/ssh" = { device = "/persist/ssh"; fsType = "none"; options = [ "bind" ]; }; }; };
        named = { fileSystems = memory; services.openssh.hostKeys = [ (ed "/persist/etc/ssh/ssh_host_ed25519_key") ]; };
        rolled-back = { fileSystems = subvolumes; boot.initrd.postDeviceCommands = "mount /dev/vda2 /mnt\nbtrfs subvolume delete /mnt/root\nbtrfs subvolume snapshot /mnt/blank /mnt/root\n"; };
        rolled-service = { fileSystems = subvolumes; boot.initrd.systemd.services.rollback.script = "btrfs sub snap /mnt/blank /mnt/root"; environment.persistence."/keep".directories = [ "/etc" ]; };
        stays = { fileSystems = subvolumes; boot.initrd.postDeviceCommands = "btrfs device scan"; };
      };
    };
}
