package pxe

import (
	"fmt"
	"strings"

	"provision/hosts"
)

// bootScript is what iPXE runs to start the installer. A failed download
// restarts the machine, which then asks again and gets a new boot. EFI needs
// initrd= on the command line; BOOTIF names the NIC that booted
// (PXELINUX convention), for machines that have several.
func (s *Server) bootScript(self string, h hosts.Host, cmdline string) string {
	base := s.url(self, bootPath+h.Boot.Token)
	return strings.Join([]string{
		"#!ipxe",
		"echo provision: starting the installer of " + h.Name,
		fmt.Sprintf("kernel --name kernel %s/kernel initrd=initrd %s BOOTIF=01-${netX/mac:hexhyp} || goto failed", base, cmdline),
		fmt.Sprintf("initrd --name initrd %s/initrd || goto failed", base),
		"boot || goto failed",
		":failed",
		"echo provision: the boot of " + h.Name + " failed; restarting in 10 seconds",
		"sleep 10",
		"reboot",
		"",
	}, "\n")
}

// localScript sends a machine to its own disk.
const localScript = "#!ipxe\necho provision: nothing to install here, starting from the disk\nexit\n"

// holdScript shows a stranger's owner how to enroll it, and asks again.
func holdScript(self string) string {
	return `#!ipxe
:again
echo
echo This machine is not enrolled. On the provision server ` + self + `, run:
echo
echo   provision enroll ${netX/mac} HOST
echo
sleep 10
ifconf --configurator dhcp netX && isset ${filename} && chain --replace ${filename} ||
goto again
`
}

// holdMediumScript shows it to who asks from a boot medium. Its failure leads
// back into the medium's script, which asks again, here for ever.
func holdMediumScript(self, mac string) string {
	return `#!ipxe
echo
echo This machine is not enrolled. On the provision server ` + self + `, run:
echo
echo   provision enroll ` + mac + ` HOST
echo
set round:int32 0
exit 1
`
}

// holdFile is where a stranger in --unknown=hold finds what it loads: a
// program, or the script that shows how it is enrolled.
func (s *Server) holdFile(l loader, mac, program string) string {
	if l == script {
		return "hold/" + strings.ReplaceAll(mac, ":", "-") + ".ipxe"
	}
	return bootPath + "hold/" + program
}

// whoScript has iPXE tell what it runs on.
func whoScript(url string) string {
	return "#!ipxe\nchain --replace " + url + "?platform=${platform}&arch=${buildarch}&mac=${netX/mac}&uuid=${uuid}\n"
}

// ubootConfig is what U-Boot's "pxe boot" reads (extlinux format). It takes
// names, even absolute ones, for relative to where it found this; folder leads
// from there to the boot's.
func ubootConfig(h hosts.Host, cmdline, folder string) string {
	return strings.Join([]string{
		"# provision: the installer of " + h.Name,
		"default installer",
		"timeout 1",
		"label installer",
		"  kernel " + folder + "kernel",
		"  initrd " + folder + "initrd",
		"  append " + cmdline,
		"",
	}, "\n")
}
