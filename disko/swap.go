package disko

import (
	"strconv"
	"strings"
)

// swapArea is a swap partition.
type swapArea struct {
	discard       string
	priority      *int
	random        bool // NixOS makes it at each boot, with a new random key
	resume        bool // NixOS resumes from it
	args, options []string
}

func parseSwap(a *attrs) deviceContent {
	s := &swapArea{discard: a.oneOf("discardPolicy", "once", "pages", "both"), random: a.flag("randomEncryption"),
		args: a.borrow("extraArgs", a.stringList("extraArgs")), options: a.list("mountOptions"), priority: a.priority()}
	if s.resume = a.flag("resumeDevice"); s.resume && s.random {
		a.warnf(a.at("resumeDevice"), "has no use with randomEncryption, whose key is lost at each boot: nothing resumes")
	}
	return s
}

// priority reads a priority for swap; nil if none is set.
func (a *attrs) priority() *int {
	p, ok := take[int](a, "priority")
	if !ok {
		return nil
	}
	if p < 0 || p > 32767 {
		a.bad("priority", "%d is not between 0 and 32767", p)
	}
	return &p
}

// minimum is that of mkswap: ten pages of 4 KiB.
func (s *swapArea) minimum() int64 { return 40 << 10 }

func (s *swapArea) fill(b *builder, on blockTarget) {
	if s.random {
		return
	}
	if b.make(s, on, "swap") {
		argv := append([]string{"mkswap"}, b.overwrite(s.args)...)
		b.step("format "+on.name+" as swap", on.device, append(argv, on.device)...)
	}
	var flags []string
	switch s.discard {
	case "":
	case "both":
		flags = []string{"--discard"}
	default:
		flags = []string{"--discard=" + s.discard}
	}

	b.swapOn(on.device, s.priority, s.options, flags...)
	b.labelled(on, "swap", s.args)
	if s.resume {
		b.system.Resume = on.device
	}
}

// swapOn turns on a swap device or file, after everything has been mounted.
func (b *builder) swapOn(device string, priority *int, options []string, flags ...string) {
	argv := append([]string{"swapon"}, flags...)
	if priority != nil {
		argv = append(argv, "--priority="+strconv.Itoa(*priority))
	}
	if len(options) > 0 {
		argv = append(argv, "--options="+strings.Join(options, ","))
	}
	if !b.swapping(device) {
		b.swaps = append(b.swaps, b.framed(Step{
			Stage:  StageMount,
			Name:   "turn on swap on " + device,
			Argv:   append(argv, device),
			Device: device,
		})...)
	}

	b.system.Swaps = append(b.system.Swaps, strings.TrimPrefix(device, target))
	b.swapOffs = append(b.swapOffs, Step{Stage: StageUnmount, Name: "turn off swap on " + device, Argv: []string{"swapoff", device}, Device: device})
}
