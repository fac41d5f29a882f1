package clients

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/images"
	"provision/internal/boards"
	"provision/internal/initrd"
	"provision/internal/lab/netboot"
)

// firmware puts what looks like the firmware of all Raspberry Pis into the catalog, and an image that a
// first stage can be made for, which takes longer than firmware at this pace waits: it is made now.
func (w *world) firmware() {
	w.Helper()
	kernel := make([]byte, 70000)
	copy(kernel[0x38:], "ARM\x64")
	copy(kernel[0x100:], "Linux version 6.1.0-lab (lab@lab) ")
	w.image(images.AArch64, kernel, initrd.File{Path: "lib/modules/6.1.0-lab/modules.builtin", Mode: 0o644, Data: []byte("kernel/drivers/net/virtio_net.ko\n")})
	dir := w.TempDir()
	elf, tree := "\x7fELF"+strings.Repeat("firmware", 9999), "\xd0\x0d\xfe\xed\x00\x00\x00\x10"+strings.Repeat("tree", 99)
	for name, data := range map[string]string{"bootcode.bin": strings.Repeat("boot", 999), "start.elf": elf, "fixup.dat": "fixup", "start4.elf": elf, "fixup4.dat": "fixup",
		"bcm2837-rpi-3-b.dtb": tree, "bcm2837-rpi-3-b-plus.dtb": tree, "bcm2711-rpi-4-b.dtb": tree, "bcm2712-rpi-5-b.dtb": tree,
		"pieeprom.upd": "flash", "pieeprom.sig": "flash", "recovery.bin": "flash"} {
		must(w.T, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
	}
	_, _, err := w.images.AddFirmware(w.ctx, boards.RaspberryPi, []string{dir}, nil)
	must(w.T, err)
	for name, data := range made {
		must(w.T, os.WriteFile(filepath.Join(w.folder, name), data, 0o600))
	}
	img, err := w.images.Get(string(images.AArch64))
	must(w.T, err)
	_, first := w.images.FirstStage(w.ctx, img)
	_, packed := w.images.PackedKernel(w.ctx, img)
	must(w.T, errors.Join(first, packed))
	if made == nil {
		files, err := os.ReadDir(w.folder)
		must(w.T, err)
		made = map[string][]byte{}
		for _, f := range files {
			if made[f.Name()], err = os.ReadFile(filepath.Join(w.folder, f.Name())); err != nil {
				w.Fatal(err)
			}
		}
	}
}

// made is the catalog of the first world whose first stage was made, which takes long under the race detector.
var made map[string][]byte

// TestPi: each model comes up in one round, by the files that its firmware asks for and no others; also on a
// network that delivers each question twice. U-Boot gets the same first stage.
func TestPi(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			w.firmware()
			w.begin(mode)
			var machines []*machine
			for _, kind := range pis {
				for _, twice := range []bool{false, true} {
					machines = append(machines, w.known(netboot.Client{Kind: kind, Twice: twice}))
				}
			}
			board := w.known(netboot.Client{Kind: netboot.UBoot2025, Server: self})
			if r := w.bootAll(board)[0]; !board.piUp(r) {
				t.Errorf("U-Boot is not given the first stage:\n%s", board.conversation(r))
			}
			for i, r := range w.bootAll(machines...) {
				m := machines[i]
				if !m.piUp(r) || len(r.Remarks) > 0 || len(m.host().Tokens) != 1 {
					t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
				}
				// On a network that delivers twice, the second offer wakes it as well.
				if woke := slices.ContainsFunc(r.Trace, func(msg netboot.Message) bool { return msg.Text == "a magic packet" }); woke != (m.Kind == netboot.Pi3B) && !m.Twice {
					t.Errorf("%s: it was sent magic packets: %v", m.Kind, woke)
				}
				if h := m.host(); h.Boot.Serial == "" || h.Serial != "" || !strings.HasPrefix(h.Boot.Client, "Raspberry Pi") || h.Boot.TakenBy != "" {
					t.Errorf("%s: %+v", m.Kind, h.Boot)
				}
			}
		})
	}
}

// piUp reports whether a Raspberry Pi has its kernel and its first stage whole, and the command line with its token.
func (m *machine) piUp(r netboot.Result) bool {
	for _, stage := range []string{"kernel", "initrd"} {
		if !slices.ContainsFunc(r.Fetched, func(f netboot.Fetch) bool {
			return strings.HasSuffix(f.Stage, stage) && f.Failed == "" && f.Bytes > 0 && (f.Bytes == f.Size || f.Size < 0)
		}) {
			return false
		}
	}
	for _, f := range r.Fetched {
		if strings.Contains(f.URL, "eeprom") && f.Failed == "" {
			return false
		}
	}
	return r.Stopped == "" && !r.Local && strings.Contains(r.Args, "init=/nix/store/x/init quiet provision.initrd=http://10.77.0.1/boot/"+m.host().Boot.Token+"/initrd ")
}
