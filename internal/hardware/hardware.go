// Package hardware takes what nixos-generate-config says of a machine, and nothing else: it becomes part of a flake,
// which is evaluated on the server and may read files there.
package hardware

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxModule bounds what is read, in bytes; the tool prints one or two thousand.
const maxModule = 64 << 10

// token matches what the tool's output is made of, but for what is between: no escapes, interpolations or paths.
var token = regexp.MustCompile(`^(?:"[^"\\$[:cntrl:]]*"|[A-Za-z_][A-Za-z0-9_.-]*|\.\.\.|[][(){};=,:+])`)

var (
	between = regexp.MustCompile(`^(?:[ \n\t]+|#[^\n]*)+`)
	head    = regexp.MustCompile(`^(?:\{ (?:(?:config|lib|pkgs|modulesPath) , )*\.\.\. \} : )?\{$`)
)

// The statements of nixpkgs' nixos/modules/installer/tools/nixos-generate-config.pl, of all releases since 20.03, with
// a blank between tokens. File systems, swap and what opens them are not among them, for the layout says these; nor is
// what is said of containers, and the lambda by which older releases allow the unfree tools of Parallels.
var statements = oneOf(
	`imports = \[(?: \( modulesPath \+ "/(?:installer/scan/not-detected|profiles/qemu-guest|hardware/network/broadcom-43xx)\.nix" \))* \]`,
	`boot\.(?:initrd\.(?:availableKernelModules|kernelModules)|kernelModules) = \[(?: "[A-Za-z0-9_-]+")* \]`,
	`boot\.extraModulePackages = \[(?: config\.boot\.kernelPackages\.broadcom_sta)* \]`,
	`boot\.swraid\.enable = true`,
	`networking\.useDHCP = lib\.mkDefault (?:true|false)`,
	`networking\.interfaces\.[A-Za-z_][A-Za-z0-9_-]*\.useDHCP = lib\.mkDefault true`,
	`networking\.enableIntel(?:2200BG|3945ABG)Firmware = true`,
	`nixpkgs\.hostPlatform = lib\.mkDefault "[a-z0-9_]+-linux"`,
	`nixpkgs\.config\.allowUnfreePackages = \[ "prl-tools" \]`,
	`powerManagement\.cpuFreqGovernor = lib\.mkDefault "(?:ondemand|powersave)"`,
	`hardware\.cpu\.(?:amd|intel)\.updateMicrocode = lib\.mkDefault config\.hardware\.enableRedistributableFirmware`,
	`hardware\.cpu\.intel\.npu\.enable = true`,
	`hardware\.video\.hidpi\.enable = lib\.mkDefault true`,
	`hardware\.parallels\.enable = true`,
	`virtualisation\.(?:virtualbox\.guest|hypervGuest)\.enable = true`,
)

func oneOf(patterns ...string) *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + strings.Join(patterns, "|") + `)$`)
}

// Module returns the module that the tool printed, written anew from the statements that are taken. An error shows the
// first thing that the tool does not print.
func Module(printed []byte) ([]byte, error) {
	if len(printed) > maxModule {
		return nil, fmt.Errorf("it has %d bytes, and at most %d are taken", len(printed), maxModule)
	}
	tokens, err := split(printed)
	if err != nil {
		return nil, err
	}

	body := slices.Index(tokens, ":") + 1 // of its arguments, which may be missing
	if body >= len(tokens) || !head.MatchString(strings.Join(tokens[:body+1], " ")) || tokens[len(tokens)-1] != "}" {
		return nil, errors.New("it does not begin and end as the tool's do, with { config, lib, pkgs, modulesPath, " +
			"... }: { and }")
	}
	tokens = tokens[body+1 : len(tokens)-1]
	var out bytes.Buffer
	out.WriteString("# What nixos-generate-config says of the machine, written by provision, which overwrites it.\n" +
		"{ config, lib, pkgs, modulesPath, ... }:\n\n{\n")
	var options []string
	for len(tokens) > 0 {
		end := slices.Index(tokens, ";")
		if end < 0 {
			end = len(tokens)
		}
		statement := strings.Join(tokens[:end], " ")
		switch {
		case end == len(tokens):
			return nil, fmt.Errorf("%.300q has no end", statement)
		case !statements.MatchString(statement):
			return nil, fmt.Errorf("%.300q is nothing that it prints", statement)
		case slices.Contains(options, tokens[0]):
			return nil, fmt.Errorf("%s is said twice", tokens[0])
		}

		options = append(options, tokens[0])
		tokens = tokens[end+1:]
		fmt.Fprintf(&out, "  %s;\n", statement)
	}

	out.WriteString("}\n")
	return out.Bytes(), nil
}

// split makes tokens of a text.
func split(text []byte) (tokens []string, err error) {
	for {
		text = text[len(between.Find(text)):]
		word := token.Find(text)
		switch {
		case len(text) == 0:
			return tokens, nil
		case word == nil:
			line, _, _ := bytes.Cut(text, []byte("\n"))
			return nil, fmt.Errorf("%.300q is nothing that it prints", strings.Join(append(lastFew(tokens), string(line)), " "))
		}

		tokens = append(tokens, string(word))
		text = text[len(word):]
	}
}

// lastFew are the words of a statement that has not ended.
func lastFew(tokens []string) []string {
	begin := len(tokens)
	for begin > 0 && tokens[begin-1] != ";" && tokens[begin-1] != "{" {
		begin--
	}
	return tokens[begin:]
}
