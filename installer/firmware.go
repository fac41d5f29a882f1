package installer

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
	"provision/internal/bootable"
)

// checkBoard stops an install before anything is changed, if the host's board would not start
// from the disks.
func (f *reconciler) checkBoard(h hosts.Host, l *disko.Layout, p *disko.Plan) error {
	b, err := boards.Parse(h.Board)
	if err != nil { // it was not recognised
		return nil
	}

	if asked := h.Boot.Board; asked != "" && asked != b.Name {
		f.note("it is enrolled as %s, and asked to boot as %s does", b.Name, asked)
	}
	var stops []string
	for _, problem := range bootable.Problems(l, b) {
		if problem.Stops {
			stops = append(stops, problem.String())
		} else {
			f.note("%s", problem)
		}
	}

	if len(stops) > 0 {
		return fmt.Errorf("nothing was changed. The layout does not suit the board, %s (enroll it with --board if "+
			"it is another):\n  %s", b, strings.Join(stops, "\n  "))
	}
	return f.checkFirmware(l, p, b)
}

// checkFirmware makes sure that the board's firmware has room in its partition.
func (f *reconciler) checkFirmware(l *disko.Layout, p *disko.Plan, b boards.Board) error {
	fw, ok := bootable.FirmwarePartition(l, b)
	if b.Firmware == "" || !ok {
		return nil
	}
	vendor, err := f.Images.Firmware(b.Firmware)
	if errors.Is(err, images.ErrNotFound) {
		f.note("no firmware is here to be put on the disk: the host has to bring its own, or add it before the "+
			"install: provision images firmware add %s --from DIR", b.Firmware)
		return nil
	}
	if err != nil {
		return err
	}

	if lacks := b.Missing(vendor.Names(), boards.FAT); len(lacks) > 0 {
		f.note("the firmware that is here is not enough to start %s from its disk, for which the host has to bring "+
			"its own: it lacks %s", b, strings.Join(lacks, ", "))
		return nil
	}
	need := firmwareRoom(vendor.For(b, boards.FAT))
	if has := cmp.Or(fw.Size, p.SizeOf(fw.Mountpoints[0])); has > 0 && has < need {
		return fmt.Errorf("nothing was changed. %s: the partition for the firmware has %s, and that of %s needs "+
			"%s: make it larger",
			fw.Path, megabytes(has), b, megabytes(need))
	}
	return nil
}

// firmwareRoom is what files take on a FAT file system, in bytes: whole clusters, of 4 KiB where
// the file system has up to 8 GiB, and something for the tables and the configuration.
func firmwareRoom(files map[string]images.File) int64 {
	const cluster, rest = 4 << 10, 1 << 20
	need := int64(rest)
	for _, f := range files {
		need += (f.Size + cluster - 1) / cluster * cluster
	}
	return need
}

// putFirmware puts what the host's board loads first into its firmware partition, unless the
// host's own activation did. It says so for the log, behind a comma; empty: the board needs none.
func (i *install) putFirmware(ctx context.Context, l *disko.Layout) (string, error) {
	b, err := boards.Parse(i.host.Board)
	if err != nil || b.Firmware == "" {
		return "", nil
	}
	fw, ok := bootable.FirmwarePartition(l, b)
	if !ok {
		return "", nil
	}
	point := fw.Mountpoints[0]
	report, err := putFirmware(ctx, i.session, newRoot, point, b, i.Images)
	if err != nil {
		return "", fmt.Errorf("put the firmware of %s into %s: %w", b, point, err)
	}
	return ", " + report, nil
}

func putFirmware(
	ctx context.Context, s *session, root, point string, b boards.Board, c *images.Catalog,
) (string, error) {
	out, err := s.run(ctx, nil, "ls", "-A", "--", root+point)
	if err != nil {
		return "", err
	}

	there := strings.Fields(string(out))

	// What we began and did not end is no host's.
	if b.Starts(there) && !slices.Contains(there, firmwareBegun) {
		return "the firmware is in " + point + " already", nil
	}
	vendor, err := c.Firmware(b.Firmware)
	if errors.Is(err, images.ErrNotFound) {
		return "", fmt.Errorf("the host did not put it there, and there is none here: add it with `provision "+
			"images firmware add %s --from DIR`, then run `provision retry`", b.Firmware)
	}
	if err != nil {
		return "", err
	}

	if lacks := b.Missing(vendor.Names(), boards.FAT); len(lacks) > 0 {
		return "", fmt.Errorf("the host did not put it there, and what is here lacks %s: add it with `provision "+
			"images firmware add %s --from DIR`, then run `provision retry`", strings.Join(lacks, ", "), b.Firmware)
	}
	if _, err := s.run(ctx, nil, "rm", "-rf", "--", root+point+"/"+firmwareBegun); err != nil {
		return "", err
	}

	files := vendor.For(b, boards.FAT)
	maps.DeleteFunc(files, func(name string, _ images.File) bool { return slices.Contains(there, name) })
	free, err := freeSpace(ctx, s, root+point)
	if err != nil {
		return "", err
	}

	if need := firmwareRoom(files); free < need {
		return "", fmt.Errorf("it has %s free, and %s are needed: make the partition larger in the layout", megabytes(free), megabytes(need))
	}
	put, err := sendFirmware(ctx, s, root, point, b, vendor, c)
	if err != nil {
		return "", err
	}

	size := images.Firmware{Files: put}.Size()
	return fmt.Sprintf("put the firmware of %s into %s: %d files, %s", b, point, len(put), megabytes(size)), nil
}

// firmwareBegun is the folder in which the files lie until all are there.
const firmwareBegun = ".provision.part"

// sendFirmware copies the files that are not there, and returns them. What is there stays as it
// is. FAT knows neither owners nor modes, and a journal neither: what the board starts with comes
// last.
func sendFirmware(
	ctx context.Context, s *session, root, point string, b boards.Board, vendor images.Firmware, c *images.Catalog,
) (map[string]images.File, error) {
	const script = `set -e
folder=$(realpath -m -- "$1$2")
case $folder/ in
"$1"/*) ;;
*) echo "$2: a symbolic link on the way leads out of the new system, to $folder"; exit 1 ;;
esac
cd -- "$folder"
part=$3
shift 3
rm -rf -- "$part"
mkdir -- "$part"
tar -C "$part" --no-same-owner --no-same-permissions -xf -
sync -f "$part"
for name; do
	test ! -e "$name" || continue
	mkdir -p -- "$(dirname -- "$name")"
	mv -- "$part/$name" "$name"
	echo "$name"
done
sync -f .
rm -rf -- "$part"
sync -f .`
	files := vendor.For(b, boards.FAT)
	names := slices.Sorted(maps.Keys(files))
	slices.SortStableFunc(names, func(x, y string) int {
		switch first := b.Starts([]string{x}); {
		case first == b.Starts([]string{y}):
			return 0
		case first:
			return 1
		}
		return -1
	})
	config := b.Config(vendor.Names())
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := writeFirmware(w, files, config, c)
		w.CloseWithError(err)
		packed <- err
	}()
	argv := append([]string{"sh", "-c", script, "sh", root, point, firmwareBegun, boards.ConfigTxt}, names...)
	out, err := s.run(ctx, r, argv...)
	r.Close()
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return nil, packErr
	}
	if err != nil {
		return nil, err
	}

	put := map[string]images.File{}
	for _, name := range strings.Fields(string(out)) {
		put[name] = files[name]
	}
	if _, ok := put[boards.ConfigTxt]; ok {
		sum := sha256.Sum256([]byte(config))
		put[boards.ConfigTxt] = images.File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(config))}
	}
	return put, checkPut(ctx, s, root+point, put)
}

// writeFirmware packs the files and the configuration.
func writeFirmware(w io.Writer, files map[string]images.File, config string, c *images.Catalog) error {
	out := tar.NewWriter(w)
	err := out.WriteHeader(&tar.Header{Name: boards.ConfigTxt, Mode: 0o644, Size: int64(len(config))})
	if err == nil {
		_, err = io.WriteString(out, config)
	}

	for name, file := range files {
		if err != nil {
			return err
		}
		err = func() error {
			in, err := c.OpenFile(file)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			defer in.Close()
			if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: file.Size}); err != nil {
				return err
			}
			_, err = io.Copy(out, in)
			return err
		}()
	}

	return errors.Join(err, out.Close())
}

// checkPut reads the files back.
func checkPut(ctx context.Context, s *session, dir string, put map[string]images.File) error {
	if len(put) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(put))
	out, err := s.run(ctx, nil, append([]string{"sh", "-c", `cd -- "$0" && exec sha256sum -- "$@"`, dir}, names...)...)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, name := range names {
		if i >= len(lines) || !strings.HasPrefix(lines[i], put[name].SHA256+" ") {
			return fmt.Errorf("%s was read back, and is not as it was sent: is the disk sound?", name)
		}
	}

	return nil
}

// freeSpace is what is free on the file system at a path, in bytes.
func freeSpace(ctx context.Context, s *session, path string) (int64, error) {
	out, err := s.run(ctx, nil, "df", "-kP", "--", path)
	if err != nil {
		return 0, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	columns := strings.Fields(lines[len(lines)-1]) // device, blocks, used, available, …
	if len(columns) < 4 {
		return 0, fmt.Errorf("df said %q", out)
	}
	kib, err := strconv.ParseInt(columns[3], 10, 64)
	return kib << 10, err
}
