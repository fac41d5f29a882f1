# cryptsetup-askpass, for people who log in to stage 1: gives it the passphrase for which it waits.
until [ -e /crypt-ramfs/device ]; do sleep 0.1; done
printf 'Passphrase for %s: ' "$(cat /crypt-ramfs/device)"
read -r -s passphrase || exit 1
echo
printf %s "$passphrase" >/crypt-ramfs/new
mv /crypt-ramfs/new /crypt-ramfs/passphrase
