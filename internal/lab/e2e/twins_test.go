package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestOneSerial: two machines whose disks have one serial number, the second of which holds data. Where the number is
// what virtual machines have by default, both are installed, and neither lays claim to the other's. Where it could be
// one disk's, the other size makes it doubtful, and what is on the second disk is only erased if the operator names it.
func TestOneSerial(t *testing.T) {
	for name, serial := range map[string]string{"a default": "drive-scsi0", "like a disk's": "S4X1K77N0123"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "proxy")
			disk := func(m *lab.Machine, size int64) {
				t.Helper()
				var err error
				m.Disks[0], err = lab.NewDisk(filepath.Join(w.dir, m.Name+".img"), size, serial)
				w.must(err)
			}
			const first, second = "alpha", "bravo"
			one := w.machine(first)
			disk(one, 4<<30)
			w.enroll(one, first)
			w.on(one)
			w.installed(one, first)
			w.must(one.PowerOff())

			two := w.machine(second)
			disk(two, 5<<30)
			w.tool("mkfs.ext4", "-q", "-F", two.Disks[0].Path)
			before := w.digest(two.Disks[0].Path, 0, 5<<30)
			w.enroll(two, second)
			w.on(two)
			if serial != "drive-scsi0" {
				out, err := w.try("wait", second)
				s := w.status(second)
				const doubt = "the host alpha has claimed a disk with its serial number and another size (4.3 GB), and it holds ext4"
				if err == nil || s.State != hosts.StateFailed || !strings.Contains(s.Error, doubt) || !s.Permit.Burned.IsZero() {
					t.Fatalf("the disk was taken without a question: %v: %s\n%+v", err, out, s)
				}
				if w.digest(two.Disks[0].Path, 0, 5<<30) != before {
					t.Error("the disk changed")
				}
				w.provision("retry", second, "--wipe", serial, "--yes")
			}
			w.installed(two, second)
			w.must(two.PowerOff())
			for _, host := range []string{first, second} {
				if plan := w.provision("plan", host); strings.Contains(plan, "would stop") {
					t.Errorf("%s does not get its own disk any more:\n%s", host, plan)
				}
			}
		})
	}
}
