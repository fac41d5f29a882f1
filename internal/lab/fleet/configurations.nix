# What configurations say beside their layouts, as NixOS has evaluated it.
let
  hostKey = "/etc/ssh/ssh_host_ed25519_key";
  openssh = ports: {
    enable = true;
    openFirewall = true;
    inherit ports;
    hostKeys = [{ type = "ed25519"; path = hostKey; }];
  };
in
{
  # Its stage 1 and its system cannot be told apart by the port or the key of their sshd.
  november = {
    services.openssh = openssh [ 22 ];
    boot.initrd = {
      network = {
        enable = true;
        ssh = { enable = true; port = 22; hostKeys = [ hostKey ]; };
      };
      secrets.${hostKey} = hostKey; # which the option hostKeys makes
    };
  };

  # What it keeps is said in both of the ways that there are.
  oscar = {
    services.openssh = openssh [ 2222 ];
    fileSystems."/etc/ssh" = { device = "/persist/etc/ssh"; fsType = "none"; options = [ "bind" ]; };
    environment.persistence."/persist" = {
      enable = true;
      persistentStoragePath = "/persist";
      files = [ ];
      directories = [{ directory = "/var/lib/app"; mode = "0755"; user = "root"; group = "root"; }];
      users = { };
    };
  };
}
