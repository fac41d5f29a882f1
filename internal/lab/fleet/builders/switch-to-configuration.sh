# boot: makes this system the one that the machine boots, as NixOS's switch-to-configuration does. What the boot loader
# needs for that follows.
export PATH=@sw@/bin
set -e
case $1 in
boot) ;;
*) echo "switch-to-configuration: this stand-in can only boot, not $1" >&2; exit 1 ;;
esac
[ -e /etc/NIXOS ] || { echo "This is not a NixOS installation!" >&2; exit 1; }
generation=$(readlink /nix/var/nix/profiles/system) # system-1-link
generation=${generation#system-}
generation=${generation%-link}

