package images

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"

	"provision/internal/initrd"
)

// maxModules bounds the size of the drivers in a first stage, in compressed bytes. If there are more, the largest are
// left out, which are those of server cards.
const maxModules = 7 << 20

// Which modules a machine may need to reach its network. A first stage has all modules of the first kind, and as many
// of the second as fit.
var (
	// Raspberry Pis (boards.md: bcmgenet; cards on USB; cards behind RP1 on PCIe), virtual machines, and USB host
	// controllers.
	neededModules = regexp.MustCompile(`^kernel/drivers/(` +
		`net/(ethernet/(broadcom/genet|cadence)/|usb/(lan78xx|smsc95xx|smsc75xx|usbnet)$|phy/|mdio/|pcs/|virtio_net$)` +
		`|virtio/` +
		`|usb/(dwc2|host)/` +
		`|(bus|char|clk|dma|firmware|gpio|i2c|irqchip|mailbox|mfd|misc|nvmem|pci|phy|pinctrl|pwm|regulator|reset|soc)/.*(rp1|brcm|bcm2|bcm7|raspberry)` +
		`)`)
	usefulModules = regexp.MustCompile(`^kernel/drivers/(net/(ethernet/|usb/|hyperv/|vmxnet3/|xen-netfront$)|usb/dwc3/|phy/|pci/controller/)`)
	// cardModules are the modules that are drivers of network cards themselves.
	cardModules = regexp.MustCompile(`^kernel/drivers/net/(ethernet/|usb/|hyperv/|vmxnet3/|virtio_net$|xen-netfront$)`)
)

// moduleName returns a module's name, given its path.
func moduleName(file string) string { return strings.ReplaceAll(path.Base(file), "-", "_") }

// networkModules returns the files of /modules in a first stage: the network drivers for img's kernel that its initrd
// has, and two indexes, dep and alias (see internal/firststage). There are no drivers if the kernel has them built in.
func (c *Catalog) networkModules(ctx context.Context, img Image) ([]initrd.File, error) {
	release, err := c.kernelRelease(img)
	if err != nil {
		return nil, err
	}

	files := &moduleFiles{c: c, img: img}
	defer files.close()

	index, err := files.index(ctx, release)
	if err != nil {
		return nil, err
	}

	needed, useful := index.wanted()
	modules, err := files.modules(ctx, release, index.closures(append(needed, useful...)))
	if err != nil {
		return nil, err
	}

	chosen := index.bounded(modules, needed, useful, maxModules)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(chosen)), cardModules.MatchString) && !index.builtinCard {
		return nil, fmt.Errorf("its initrd holds no driver for a network card, of kernel %s, and none is known to "+
			"be built in: "+
			"take an image whose initrd has them (NixOS: boot.initrd.availableKernelModules)", release)
	}
	return index.pack(modules, chosen), nil
}

// moduleIndex is what depmod wrote about the modules of a kernel.
type moduleIndex struct {
	needs       map[string][]string // by path: the paths that it depends on, in loading order
	byName      map[string]string   // paths by module name
	soft        map[string][]string // by name: names of modules that should be loaded before it
	aliases     string              // contents of modules.alias
	builtinCard bool                // a driver of a network card is built into the kernel
}

// index reads the indexes of the modules of a kernel version.
func (m *moduleFiles) index(ctx context.Context, release string) (moduleIndex, error) {
	files := map[string]string{}
	others := map[string]bool{}
	err := m.each(ctx, func(version, name string, content io.Reader) error {
		if version != release {
			if len(others) < maxReleases {
				others[version] = true
			}
			return nil
		}

		switch name {
		case "modules.dep", "modules.alias", "modules.softdep", "modules.builtin":
			data, err := io.ReadAll(io.LimitReader(content, 16<<20))
			files[name] = string(data)
			return err
		}

		return nil
	})
	if err != nil {
		return moduleIndex{}, err
	}

	if files["modules.dep"] == "" && files["modules.builtin"] == "" {
		var found []string
		for v := range others {
			found = append(found, v)
		}
		slices.Sort(found)
		if len(found) > 0 {
			return moduleIndex{}, fmt.Errorf("its kernel is %s, and its initrd holds modules for %s: give the "+
				"kernel and the initrd of one build",
				release, strings.Join(found, ", "))
		}
		return moduleIndex{}, fmt.Errorf("its initrd holds no modules (lib/modules/%s/modules.dep), so no driver "+
			"for a network card", release)
	}

	return parseModuleIndex(files), nil
}

// parseModuleIndex reads the contents of modules.dep(5), modules.softdep and modules.builtin.
func parseModuleIndex(files map[string]string) moduleIndex {
	x := moduleIndex{
		needs:   map[string][]string{},
		byName:  map[string]string{},
		soft:    map[string][]string{},
		aliases: files["modules.alias"],
	}
	for line := range strings.Lines(files["modules.dep"]) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		name, _, isModule := cutModule(file)
		if !ok || !isModule {
			continue
		}
		var all []string
		for _, n := range strings.Fields(needs) {
			n, _, _ = cutModule(n)
			all = append(all, n)
		}

		slices.Reverse(all) // depmod lists last what must be loaded first
		x.needs[name], x.byName[moduleName(name)] = all, name
	}

	for line := range strings.Lines(files["modules.softdep"]) {
		f := strings.Fields(line) // the format is: softdep NAME pre: A B post: C
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		pre := false
		for _, w := range f[2:] {
			switch {
			case strings.HasSuffix(w, ":"):
				pre = w == "pre:"
			case pre:
				name := moduleName(f[1])
				x.soft[name] = append(x.soft[name], moduleName(w))
			}
		}
	}

	for line := range strings.Lines(files["modules.builtin"]) {
		name, _, _ := cutModule(strings.TrimSpace(line))
		x.builtinCard = x.builtinCard || cardModules.MatchString(name)
	}

	return x
}

// wanted returns the modules that must be packed, and those that are packed if there is room, sorted.
func (x moduleIndex) wanted() (needed, useful []string) {
	for name := range x.needs {
		switch {
		case neededModules.MatchString(name):
			needed = append(needed, name)
		case usefulModules.MatchString(name):
			useful = append(useful, name)
		}
	}
	slices.Sort(needed)
	slices.Sort(useful)
	return needed, useful
}

// closures returns the set of these modules and all that they depend on.
func (x moduleIndex) closures(names []string) map[string]bool {
	all := map[string]bool{}
	for _, name := range names {
		for _, each := range append(x.closure(name, nil), name) {
			all[each] = true
		}
	}
	return all
}

// closure returns all modules that a module depends on, in loading order. within are modules whose dependencies are
// being looked up, as soft dependencies may be circular.
func (x moduleIndex) closure(name string, within []string) []string {
	var all []string
	add := func(n string) {
		if n != name && !slices.Contains(all, n) && !slices.Contains(within, n) {
			all = append(all, n)
		}
	}
	for _, each := range append(slices.Clone(x.needs[name]), name) {
		for _, wish := range x.soft[moduleName(each)] {
			if file, ok := x.byName[wish]; ok && file != name && !slices.Contains(within, file) {
				for _, n := range x.closure(file, append(within, name)) {
					add(n)
				}
				add(file)
			}
		}
		add(each)
	}

	return all
}

// kernelModule is the contents of a kernel module.
type kernelModule struct {
	data []byte // uncompressed
	size int    // compressed size in bytes
}

// modules reads the modules with these paths. Those that do not exist are left out.
func (m *moduleFiles) modules(ctx context.Context, release string,
	paths map[string]bool) (map[string]kernelModule, error) {
	modules := map[string]kernelModule{}
	err := m.each(ctx, func(version, name string, content io.Reader) error {
		file, ext, ok := cutModule(name)
		if version != release || !ok || !paths[file] || modules[file].data != nil {
			return nil
		}
		read, err := readModule(ext, content)
		if err == nil && len(read.data) > 0 {
			modules[file] = read
		}
		return err
	})
	return modules, err
}

// readModule reads a module, which may be compressed as ext says.
func readModule(ext string, content io.Reader) (kernelModule, error) {
	if ext != ".ko" {
		z, err := initrd.Decompress(content)
		if err != nil {
			return kernelModule{}, fmt.Errorf("unpack it: %w", err)
		}
		defer z.Close()
		content = z
	}

	data, err := io.ReadAll(io.LimitReader(content, 64<<20))
	if err != nil {
		return kernelModule{}, err
	}

	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		return kernelModule{}, err
	}

	err = w.Close()
	return kernelModule{data, packed.Len()}, err
}

// bounded chooses the modules to pack: all that are needed, and then the useful ones in order of the space that they
// take with their dependencies, the smallest first, up to room compressed bytes.
func (x moduleIndex) bounded(modules map[string]kernelModule, needed, useful []string, room int) map[string]bool {
	chosen := map[string]bool{}
	cost := func(name string) (size int, whole bool) {
		for _, each := range append(x.closure(name, nil), name) {
			m, ok := modules[each]
			if !ok {
				return 0, false
			}
			if !chosen[each] {
				size += m.size
			}
		}
		return size, true
	}
	take := func(name string, limit int) {
		size, whole := cost(name)
		if !whole || size > limit {
			return
		}
		room -= size
		for _, each := range append(x.closure(name, nil), name) {
			chosen[each] = true
		}
	}
	for _, name := range needed {
		take(name, math.MaxInt)
	}
	sizes := map[string]int{}
	for _, name := range useful {
		sizes[name], _ = cost(name)
	}
	slices.SortStableFunc(useful, func(a, b string) int { return cmp.Compare(sizes[a], sizes[b]) })
	for _, name := range useful {
		take(name, room)
	}
	return chosen
}

// pack returns the files for the chosen modules.
func (x moduleIndex) pack(modules map[string]kernelModule, chosen map[string]bool) []initrd.File {
	var dep, alias strings.Builder
	var files []initrd.File
	names := map[string]bool{}
	for _, file := range slices.Sorted(maps.Keys(chosen)) {
		names[moduleName(file)] = true
		fmt.Fprintf(&dep, "%s:", moduleName(file))
		for _, n := range x.closure(file, nil) {
			fmt.Fprintf(&dep, " %s", moduleName(n))
		}
		dep.WriteByte('\n')
		files = append(files, initrd.File{Path: "modules/" + moduleName(file) + ".ko", Mode: 0o644, Data: modules[file].data})
	}

	for line := range strings.Lines(x.aliases) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" && names[moduleName(f[2])] {
			fmt.Fprintf(&alias, "alias %s %s\n", f[1], moduleName(f[2]))
		}
	}

	return append(files, initrd.File{Path: "modules/dep", Mode: 0o644, Data: []byte(dep.String())},
		initrd.File{Path: "modules/alias", Mode: 0o644, Data: []byte(alias.String())})
}

// cutModule cuts the extension off a module's file name; false if it has none.
func cutModule(file string) (name, ext string, ok bool) {
	for _, ext := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if name, ok := strings.CutSuffix(file, ext); ok {
			return name, ext, true
		}
	}
	return file, "", false
}
