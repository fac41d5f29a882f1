package boards

// RaspberryPi is the name of the tree of all Raspberry Pis.
const RaspberryPi = "raspberrypi"

// The architectures.
const (
	x86   = "x86_64"
	arm64 = "aarch64"
)

// gib is one GiB in bytes.
const gib = 1 << 30

// Where hosts mount what their firmware reads.
var (
	espMountpoints = []string{"/boot", "/boot/efi", "/efi"}
	piMountpoints  = []string{"/boot/firmware", "/boot", "/firmware"}
)

// overlays are those of all Raspberry Pis.
var overlays = optional(TFTP|FAT, "overlays/*.dtbo", "overlays/*.dtb", "overlays/README")

// ubootAny is the build of U-Boot that starts each of the 64-bit Raspberry Pis.
var ubootAny = uboot{file: "u-boot-rpi-arm64.bin", configs: []string{"rpi_arm64"}}

// needed is a file without which the firmware does not start from anywhere.
func needed(patterns ...string) load {
	return load{patterns: patterns, needed: TFTP | FAT, asked: TFTP | FAT}
}

// optional is a file that the firmware loads from m if it is there.
func optional(m Medium, patterns ...string) load {
	return load{patterns: patterns, asked: m}
}

// rows are all boards that are known, and are never changed. What Raspberry Pis load and tell is in
// raspberrypi.com/documentation (boot flow, network boot, revision codes), in the source of rpi-eeprom's tools, and in
// logs of real boards. Device trees of mainline Linux have other names for the Pi 3 and for the modules.
var rows = []Board{
	{
		Name:        "pc",
		Description: "PC, with UEFI or BIOS",
		Arch:        x86,
		Generic:     true,

		Table:       TablePC,
		Mountpoints: espMountpoints,
	},
	{
		Name:        "uefi-aarch64",
		Description: "64-bit ARM with UEFI",
		Arch:        arm64,
		Generic:     true,

		Table:       TableUEFI,
		Mountpoints: espMountpoints,
	},
	{
		Name:        "rpi3",
		Description: "Raspberry Pi 3B, 3B+ or CM3",
		Arch:        arm64,

		Firmware: RaspberryPi,
		Memory:   gib,
		Models: []Model{
			{0x08, "Raspberry Pi 3B", "bcm2710-rpi-3-b.dtb"},
			{0x0a, "Raspberry Pi CM3", "bcm2710-rpi-cm3.dtb"},
			{0x0d, "Raspberry Pi 3B+", "bcm2710-rpi-3-b-plus.dtb"},
			{0x10, "Raspberry Pi CM3+", "bcm2710-rpi-cm3.dtb"},
		},
		ROM:       &ROM{XID: 0x26f30339, ID: 0x44444444}, // of a 3B
		TFTPBlock: 512,                                   // its ROM asks for no size at all
		NoARP:     true,

		Table:       TableMBR,
		Mountpoints: piMountpoints,

		loads: []load{
			needed("bootcode.bin"),
			needed("start.elf"),
			needed("fixup.dat"),
			needed("bcm2710-rpi-3-*.dtb", "bcm2837-rpi-3-*.dtb", "bcm2710-rpi-cm3.dtb", "bcm2837-rpi-cm3*.dtb"),
			overlays,
			optional(TFTP, "start_*.elf", "fixup_*.dat"),
			optional(TFTP|FAT, "armstub8.bin"),
		},
		uboots: []uboot{{file: "u-boot-rpi3.bin", configs: []string{"rpi_3", "rpi3"}}, ubootAny},
		config: []setting{
			{lacks: "bcm2710-*.dtb", lines: []string{"upstream_kernel=1"}}, // it looks for bcm2837-*.dtb then
		},
		names: []string{"bcm2837-", "bcm2710-", "-cm3-io3.", "-cm3."},
	},
	{
		Name:        "rpi4",
		Description: "Raspberry Pi 4, 400 or CM4",
		Arch:        arm64,

		Firmware: RaspberryPi,
		Models: []Model{
			{0x11, "Raspberry Pi 4B", "bcm2711-rpi-4-b.dtb"},
			{0x13, "Raspberry Pi 400", "bcm2711-rpi-400.dtb"},
			{0x14, "Raspberry Pi CM4", "bcm2711-rpi-cm4.dtb"},
			{0x15, "Raspberry Pi CM4S", "bcm2711-rpi-cm4s.dtb"},
		},
		Digit:     '4',
		TFTPBlock: 1024, // its EEPROM of before October 2022

		Table:       TableAny,
		GPTSince:    "the EEPROM of September 2020",
		Mountpoints: piMountpoints,

		loads: []load{
			needed("start4.elf"),
			needed("fixup4.dat"),
			needed("bcm2711-*.dtb"),
			overlays,
			optional(TFTP, "start4*.elf", "fixup4*.dat"),
			optional(TFTP|FAT, "armstub8-gic.bin"),
		},
		uboots: []uboot{{file: "u-boot-rpi4.bin", configs: []string{"rpi_4", "rpi4"}}, ubootAny},
		config: []setting{
			{has: "armstub8-gic.bin", lines: []string{"enable_gic=1", "armstub=armstub8-gic.bin"}},
		},
		names: []string{"-cm4-io.", "-cm4."},
	},
	{
		Name:        "rpi5",
		Description: "Raspberry Pi 5, 500 or CM5",
		Arch:        arm64,

		Firmware: RaspberryPi,
		Models: []Model{
			{0x17, "Raspberry Pi 5", "bcm2712-rpi-5-b.dtb"},
			{0x18, "Raspberry Pi CM5", ""},
			{0x19, "Raspberry Pi 500", ""},
			{0x1a, "Raspberry Pi CM5 Lite", ""},
		},
		Digit:     '5',
		TFTPBlock: 1468,

		Table:       TableAny,
		Mountpoints: piMountpoints,

		NoUBootNetwork: "its own firmware can netboot: set BOOT_ORDER=0xf142 in its EEPROM (rpi-eeprom-config)",
		NoUBootNVMe:    "the host has to put its kernel there itself, as nixos-raspberrypi does",

		// Its start program is in the EEPROM. Boards with D0 silicon need overlays/bcm2712d0.dtbo.
		loads: []load{
			needed("bcm2712*-rpi-*.dtb"),
			overlays,
			optional(TFTP|FAT, "armstub8-2712.bin"),
		},
		uboots: []uboot{ubootAny},
	},
}
