// Package confirm tells what an operator agrees to by confirming a plan. The server makes it of
// the plan that is shown and of the one that a permit is for, the installer of the one that it
// is about to carry out.
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

// Options are those by which a host's disks are planned. Where disko's own script makes them,
// script is its path.
func Options(o hosts.Choices, script string) disko.Options {
	if o.Disko == hosts.Script {
		return disko.Options{Script: script, Disks: o.Disks}
	}
	return disko.Options{Mode: disko.Mode(o.Disko), Disks: o.Disks}
}

// Of is what a plan takes and destroys, with the disks that the operator named with --wipe.
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

// Disks are those that a plan takes, as a permit names them.
func Disks(p *disko.Plan, wipe []string) []hosts.Disk {
	var disks []hosts.Disk
	for _, t := range Of(p, wipe).Disks {
		disks = append(disks, t.Disk)
	}
	return disks
}

// Objections say what speaks against taking the plan's disks for the host, by what is on them and
// by what the inventory knows of them.
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

// digest is of the disks, by what tells them from others, of the steps that destroy, and of what
// --wipe names. Texts for people are not in it, nor is a device's name where something better is
// known: that may be another disk's after the next start.
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
		panic(err) // strings and numbers always can
	}

	hash := sha256.Sum256(data)
	return hex.EncodeToString(hash[:16])
}

// onDisks is a command with the names of the disks replaced by their places in the plan.
func onDisks(argv []string, takes []hosts.Taken) []string {
	order := make([]int, len(takes))
	for i := range order {
		order[i] = i
	}

	// The longest first: /dev/sda is a part of /dev/sdaa.
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
