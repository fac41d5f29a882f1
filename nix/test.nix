# A server and a machine on one network, with NixOS's test driver. It has not been run where provision is developed, for
# there is neither nixpkgs nor KVM: internal/lab has tests of the same shape.
{
  name = "provision";

  nodes.server =
    { pkgs, ... }:
    {
      virtualisation.vlans = [ 1 ];

      services.provision = {
        enable = true;
        flake = "${pkgs.writeTextDir "flake.nix" "{ outputs = _: { nixosConfigurations = { }; }; }"}";
        interfaces = [ "eth1" ];
        dhcp = {
          mode = "server";
          ranges = [ "192.168.1.100-192.168.1.199" ];
        };
        group = "provision";
        openFirewall = true;
      };
    };

  nodes.machine =
    { pkgs, ... }:
    {
      virtualisation.vlans = [ 1 ];
      environment.systemPackages = [ pkgs.tftp-hpa ];
      networking.firewall.enable = false;
    };

  testScript = ''
    start_all()
    server.wait_for_unit("provision.service")
    server.succeed("provision status")
    server.succeed("stat --format=%G:%a /run/provision/provision.sock | grep --line-regexp provision:660")
    server.succeed("systemctl show --property=StatusText provision | grep 'answering on eth1'")

    # A machine that nobody enrolled gets no program, and the server tells that it asked.
    machine.wait_for_unit("multi-user.target")
    machine.fail("tftp -m binary server -c get snponly.efi && test -s snponly.efi")

    # A server that hangs is restarted.
    server.succeed("systemctl kill --signal=STOP provision")
    server.wait_until_succeeds("systemctl show --property=NRestarts provision | grep --line-regexp NRestarts=1", timeout=300)
    server.wait_for_unit("provision.service")
  '';
}
