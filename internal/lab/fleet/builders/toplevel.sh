# Builds the system's store path, with the entries that NixOS's toplevel has.
mkdir -p "$out/bin"
ln -s "$kernel/$kernelFile" "$out/kernel"
ln -s "$kernel" "$out/kernel-modules"
ln -s "$initrd/initrd" "$out/initrd"
ln -s "$etc/etc" "$out/etc"
ln -s "$sw" "$out/sw"
printf %s "$kernelParams" >"$out/kernel-params"
printf %s 25.05.lab >"$out/nixos-version"
printf %s "$hostSystem" >"$out/system"
printf %s "$secrets" >"$out/initrd-secrets"
fill() {
	printf '#!%s\n' "$busybox/usr/bin/busybox sh"
	printf '%s\n' "$1" | sed -e "s|@out@|$out|g" -e "s|@sw@|$sw|g" -e "s|@busybox@|$busybox/usr/bin/busybox|g" \
		-e "s|@efi@|$efi|g" -e "s|@efiEntry@|$efiEntry|g" -e "s|@grubDevices@|$grubDevices|g" \
		-e "s|@persist@|$persist|g" -e "s|@name@|$hostName|g"
}
fill "$init" >"$out/init"
fill "$activate" >"$out/activate"
fill "$switch" >"$out/bin/switch-to-configuration"
chmod 0755 "$out/init" "$out/activate" "$out/bin/switch-to-configuration"
