package lab

// An Arch is what a guest's processor is, by the kernel's name for it, which the files of nixos-images have too.
type Arch string

const (
	X86_64  Arch = "x86_64"
	AArch64 Arch = "aarch64"
)

// names are what an architecture and things that depend on it are called.
type names struct {
	debian  string // the architecture in Debian
	system  string // the architecture in nix
	kernel  string // the kernel's file
	console string // the first serial port
	efi     string // the architecture in UEFI
}

func (a Arch) names() names {
	if a == AArch64 {
		return names{"arm64", "aarch64-linux", "Image", "ttyAMA0", "aa64"}
	}
	return names{"amd64", "x86_64-linux", "bzImage", "ttyS0", "x64"}
}
