package images

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"provision/internal/initrd"
)

// firstStagePrograms holds the compiled first stages, which "make build" makes.
//
//go:embed firststage
var firstStagePrograms embed.FS

// firstStageVersion has to be changed whenever packFirstStage produces something else from the same input.
const firstStageVersion = "1"

// firstExt ends the file names of the records of first stages.
const firstExt = ".first"

// FirstStage returns the first stage for img, which is a small gzip-compressed cpio archive in the catalog: the static
// program for img.Arch as /init (internal/firststage), and the network drivers of img's initrd. A machine whose
// firmware cannot load img's own initrd boots img's kernel with this one, and with [FirstStageCmdline] on the command
// line.
//
// It is made once for an image, and kept as long as an image has that initrd. Making it reads the whole initrd, which
// takes seconds, or half a minute for one with all drivers, so it should be done before a machine waits. It is made
// again if the program changes. It is an error if the image has no driver for any network card, or if this provision
// was built without the program.
func (c *Catalog) FirstStage(ctx context.Context, img Image) (File, error) {
	program, err := c.program(img.Arch)
	if err == nil {
		var f File
		if f, err = c.firstStage(ctx, img, program); err == nil {
			return f, nil
		}
	}
	return File{}, fmt.Errorf("make the first stage of image %s: %w", img.Name, err)
}

// firstStageProgram returns the program for an architecture, compressed by gzip.
func firstStageProgram(arch Arch) ([]byte, error) {
	program, err := firstStagePrograms.ReadFile("firststage/" + string(arch) + ".gz")
	if err != nil {
		return nil, errors.New("this provision was built without its first stage: run make build")
	}
	return program, nil
}

// firstStage returns the first stage from the catalog, or makes it.
func (c *Catalog) firstStage(ctx context.Context, img Image, program []byte) (File, error) {
	c.first.Lock() // it is made only once, even if many machines want it
	defer c.first.Unlock()

	record := firstStageRecord(img, program)
	if f, err := c.readFirst(record); err == nil {
		if open, err := c.OpenFile(f); err == nil {
			return f, open.Close()
		}
	}

	data, err := c.packFirstStage(ctx, img, program)
	if err != nil {
		return File{}, err
	}

	sum := sha256.Sum256(data)
	f := File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
	c.mu.Lock() // no sweep may run between content and record
	defer c.mu.Unlock()

	text, err := json.Marshal(f)
	if err != nil {
		return File{}, err
	}

	if err := c.putBytes(f.SHA256, data); err != nil {
		return File{}, err
	}
	return f, c.putBytes(record, append(text, '\n'))
}

// firstStageRecord returns the file name of the record of an image's first stage with this program.
func firstStageRecord(img Image, program []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%s\n%x", firstStageVersion, img.Kernel.SHA256, img.Initrd.SHA256, rdinit(img.Cmdline), sha256.Sum256(program))
	return hex.EncodeToString(h.Sum(nil)) + firstExt
}

// readFirst reads the record of a first stage.
func (c *Catalog) readFirst(record string) (File, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, record))
	if err != nil {
		return File{}, err
	}
	var f File
	return f, json.Unmarshal(data, &f)
}

// firstStages returns the file names of the records of the images' first stages, and of their contents.
func (c *Catalog) firstStages(all []Image) map[string]bool {
	used := map[string]bool{}
	for _, img := range all {
		program, err := c.program(img.Arch)
		if err != nil {
			continue
		}
		record := firstStageRecord(img, program)
		if f, err := c.readFirst(record); err == nil {
			used[record], used[f.SHA256] = true, true
		}
	}
	return used
}

// putBytes writes a small file into the catalog's folder atomically.
func (c *Catalog) putBytes(name string, data []byte) error {
	tmp, _, err := c.writeTemp(func(w io.Writer) (int64, error) {
		n, err := w.Write(data)
		return int64(n), err
	})
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(c.dir, name)); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(c.dir)
}

// packFirstStage makes the first stage. It is reproducible: the same image and program give the same bytes.
func (c *Catalog) packFirstStage(ctx context.Context, img Image, program []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}

	plain, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}

	files := []initrd.File{
		{Path: "init", Mode: 0o755, Data: plain},
		{Path: "sbin/modprobe", Mode: fs.ModeSymlink, Data: []byte("/init")},
	}
	if init := rdinit(img.Cmdline); init != "/init" { // the kernel starts this file instead
		files = append(files, initrd.File{Path: init, Mode: fs.ModeSymlink, Data: []byte("/init")})
	}
	modules, err := c.networkModules(ctx, img)
	if err != nil {
		return nil, err
	}

	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}

	if _, err := w.Write(initrd.Overlay(append(files, modules...))); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}

	return packed.Bytes(), nil
}

// rdinit returns the program that the kernel starts from an initrd (rdinit= in Linux,
// Documentation/admin-guide/kernel-parameters.txt).
func rdinit(cmdline string) string {
	init := "/init"
	for _, w := range splitArgs(cmdline) {
		if value, ok := strings.CutPrefix(w, "rdinit="); ok && value != "" {
			init = value
		}
	}
	return init
}

// FirstStageCmdline returns what the first stage needs on the kernel's command line in addition to img.Cmdline: url,
// from which it fetches img's initrd followed by tail ([Contract.Tail]), and the sizes in bytes and SHA-256 digests of
// both:
//
//	provision.initrd=http://10.0.0.1/boot/TOKEN/initrd provision.sha256=SIZE:SHA256,SIZE:SHA256
//
// Digests are in unpadded base64url (RFC 4648, section 5) to save space: the kernel takes 2048 bytes in all. The host
// of url is an IP address. Because of the dot in the names, the kernel does not pass these words on to init.
func FirstStageCmdline(url string, img Image, tail []byte) string {
	image, _ := hex.DecodeString(img.Initrd.SHA256) // digests in the catalog are valid
	boot := sha256.Sum256(tail)
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf("provision.initrd=%s provision.sha256=%d:%s,%d:%s", escapeWord(url),
		img.Initrd.Size, b64(image), len(tail), b64(boot[:]))
}

// escapeWord encodes a URL as one word of a command line, without characters that the kernel, iPXE or U-Boot interpret.
func escapeWord(url string) string {
	var b strings.Builder
	for _, c := range []byte(url) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"'\\$`;|&<>", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
