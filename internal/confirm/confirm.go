// Package confirm determines what an operator agrees to by confirming a plan. The server computes it for the plan that
// is shown and for the plan that a permit is for, and the installer for the plan that it is about to carry out.
package confirm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// Options returns the options with which a host's disks are planned. script is the path of disko's own script, used if
// the host's disks are made by it.
func Options(o hosts.Choices, script string) disko.Options {
	if o.Disko == hosts.Script {
		return disko.Options{Script: script, Disks: o.Disks}
	}
	return disko.Options{Mode: disko.Mode(o.Disko), Disks: o.Disks}
}

// Of returns what a plan takes and erases. wipe lists the disks that the operator named with --wipe.
func Of(p *disko.Plan, wipe []string) hosts.Confirmed {
	wiped, unknown := p.Wiped(wipe)
	c := hosts.Confirmed{Disks: []hosts.Taken{}}
	for _, d := range p.Disks {
		c.Disks = append(c.Disks, hosts.Taken{
			Disk: hosts.Disk{
				Device: d.Device,
				Model:  d.Model,
				Serial: d.Serial,
				WWN:    d.WWN,
				Size:   d.Size,
				Wipe:   slices.Contains(wiped, d.Device),
				Vague:  d.Vague,
				Twins:  d.Twins,
			},
			Name:   d.Name,
			Named:  d.Named,
			Erased: d.Erased,
		})
	}

	c.Digest = digest(p, c.Disks, unknown)
	return c
}

// Disks returns the disks that a plan takes, in the form in which a permit names them.
func Disks(p *disko.Plan, wipe []string) []hosts.Disk {
	var disks []hosts.Disk
	for _, t := range Of(p, wipe).Disks {
		disks = append(disks, t.Disk)
	}
	return disks
}

// Objections returns what speaks against taking the plan's disks for the host, considering what is on them and what the
// inventory knows about them.
func Objections(p *disko.Plan, h hosts.Host, inventory *hosts.Inventory) ([]disko.Objection, error) {
	owners, err := inventory.Owners(h, Disks(p, nil))
	if err != nil {
		return nil, err
	}
	known := disko.Known{Host: h.Name, Wipe: h.Wipe}
	for _, o := range owners {
		known.Owners = append(known.Owners, o.Host)
		known.Doubts = append(known.Doubts, o.Doubt)
	}
	return p.Guard(known), nil
}

// digest is a digest of the disks, by what tells them from others, of the steps that destroy data, and of what --wipe
// names. It does not depend on texts for people, nor on the device name of a disk that has a better identifier, as the
// name may be another disk's after the next boot.
func digest(p *disko.Plan, takes []hosts.Taken, unknown []string) string {
	sum := struct {
		Way      disko.Mode
		Takes    []hosts.Taken
		Destroys [][]string
		Unknown  []string
	}{Way: p.Mode, Unknown: slices.Sorted(slices.Values(unknown))}
	for _, t := range takes {
		if t.Size > 0 {
			t.Named = ""
		}
		if t.Known() {
			t.Device = ""
		}
		sum.Takes = append(sum.Takes, t)
	}

	for _, s := range p.Steps {
		if s.Destructive() {
			sum.Destroys = append(sum.Destroys, onDisks(s.Argv, takes))
		}
	}

	data, err := json.Marshal(sum)
	if err != nil {
		panic(err) // strings and numbers always can be encoded
	}

	hash := sha256.Sum256(data)
	return hex.EncodeToString(hash[:16])
}

// onDisks returns a command in which the names of disks are replaced by their positions in the plan.
func onDisks(argv []string, takes []hosts.Taken) []string {
	order := make([]int, len(takes))
	for i := range order {
		order[i] = i
	}

	// The longest names come first, as /dev/sda is a prefix of /dev/sdaa.
	slices.SortFunc(order, func(a, b int) int { return len(takes[b].Device) - len(takes[a].Device) })
	var items []string
	for _, i := range order {
		items = append(items, takes[i].Device, fmt.Sprintf("disk %d", i))
	}
	replace := strings.NewReplacer(items...)
	var out []string
	for _, arg := range argv {
		out = append(out, replace.Replace(arg))
	}
	return out
}
