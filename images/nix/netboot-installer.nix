# A netboot installer that takes its keys from the initrd, as provision appends them for each boot: nobody can log in
# without these.
{
  config,
  lib,
  modulesPath,
  pkgs,
  ...
}:
{
  imports = [ (modulesPath + "/installer/netboot/netboot-minimal.nix") ];

  # The contract of nix-community's images, in stage 1: ssh/, *.json and machine-id are in the initrd's root.
  boot.initrd.systemd.enable = true;
  boot.initrd.systemd.services.restore-state-from-initrd = {
    description = "Take the keys of this boot out of the initrd";
    unitConfig = {
      DefaultDependencies = false;
      RequiresMountsFor = "/sysroot /dev";
    };
    wantedBy = [ "initrd.target" ];
    before = [
      "initrd.target"
      "rw-etc.service"
      "shutdown.target"
    ];
    conflicts = [ "shutdown.target" ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
    };
    script = ''
      cd /
      mkdir -p /sysroot/root/network /sysroot/etc/ssh
      mkdir -m 700 -p /sysroot/root/.ssh
      install -m 600 ssh/authorized_keys /sysroot/root/.ssh/
      for key in ssh/ssh_host_*; do
        case $key in
          *.pub) install -m 644 "$key" /sysroot/etc/ssh/ ;;
          *) install -m 600 "$key" /sysroot/etc/ssh/ ;;
        esac
      done
      for file in *.json; do
        [ ! -e "$file" ] || cp "$file" /sysroot/root/network/
      done
      [ ! -e machine-id ] || install -m 444 machine-id /sysroot/etc/machine-id
    '';
  };

  # Where the firmware cannot load the initrd, as on a Raspberry Pi, provision's first stage does, with these drivers.
  boot.initrd.availableKernelModules = [
    "virtio_net"
  ]
  ++ lib.optionals pkgs.stdenv.hostPlatform.isx86_64 [
    "e1000e"
    "igb"
    "igc"
    "r8169"
    "ixgbe"
    "tg3"
    "bnxt_en"
  ]
  ++ lib.optionals pkgs.stdenv.hostPlatform.isAarch64 [
    "genet"
    "macb"
    "lan78xx"
    "smsc95xx"
  ];

  services.openssh = {
    enable = true;
    hostKeys = [
      {
        path = "/etc/ssh/ssh_host_ed25519_key";
        type = "ed25519";
      }
    ];
    settings = {
      PermitRootLogin = "prohibit-password";
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
    };
  };

  networking = {
    hostName = "nixos-installer";
    useNetworkd = true;
    firewall.enable = false;
    wireless.enable = lib.mkForce false;
  };

  # The last one is /dev/console.
  boot.kernelParams =
    lib.optional pkgs.stdenv.hostPlatform.isAarch64 "console=ttyAMA0,115200n8"
    ++ [
      "console=ttyS0,115200n8"
      "console=tty0"
    ];

  environment.systemPackages = with pkgs; [
    bcachefs-tools
    btrfs-progs
    cryptsetup
    dosfstools
    e2fsprogs
    f2fs-tools
    gptfdisk
    jq
    lvm2
    mdadm
    nixos-install-tools
    parted
    rsync
    util-linux
    xfsprogs
  ];

  nix.settings = {
    experimental-features = [
      "nix-command"
      "flakes"
    ];
    connect-timeout = 5;
    log-lines = 25;
    builders-use-substitutes = true;
  };

  # Small: no manual, no nixpkgs (neither as a channel nor as the registry's, which nixosSystem of a flake puts there), no
  # compiler, no editor. What more can go, and what it costs: docs/small-image.md.
  documentation.enable = lib.mkForce false;
  documentation.nixos.enable = lib.mkForce false;
  system.installer.channel.enable = false;
  nix.registry = lib.mkForce { };
  programs.nano.enable = false;
  system.extraDependencies = lib.mkForce [ ];
  system.stateVersion = config.system.nixos.release;

  # What `provision images add --from` wants: kernel, initrd, and the command line with its init.
  system.build.netboot = pkgs.symlinkJoin {
    name = "netboot-installer";
    paths = [
      config.system.build.netbootRamdisk
      config.system.build.kernel
      (pkgs.runCommand "kernel-params" { } ''
        mkdir $out
        ln -s ${config.system.build.toplevel}/kernel-params ${config.system.build.toplevel}/init $out/
      '')
    ];
  };
}
