package beside

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"provision/disko"
)

// TestPresetsByHand evaluates the presets' nix files with disko, and compares that with their JSON, and what disko's
// module tells NixOS with what layout show --filesystems prints. It needs what TestDiskoByHand needs, but no machine.
// BESIDE=write writes the JSON.
func TestPresetsByHand(t *testing.T) {
	source, lib := sources(t)
	for _, p := range disko.Presets() {
		file := "../../../disko/presets/" + p.Name
		out := eval(t, `{ disko, lib, file }:
			let
			  nixpkgs = import lib;
			  diskoLib = import (disko + "/lib") { lib = nixpkgs; makeTest = null; eval-config = null; qemu-common = null; };
			  devices = (nixpkgs.evalModules {
			    modules = [ { options.disko.devices = nixpkgs.mkOption { type = diskoLib.toplevel; }; } (import file) ];
			  }).config.disko.devices;
			in { devices = import ./strip.nix devices; config = devices._config; }`,
			"--arg", "disko", source, "--arg", "lib", lib, "--arg", "file", "./"+file+".nix")
		var is struct{ Devices, Config json.RawMessage }
		check(t, json.Unmarshal(out, &is))
		var pretty bytes.Buffer
		check(t, json.Indent(&pretty, is.Devices, "", "  "))
		pretty.WriteByte('\n')
		if os.Getenv("BESIDE") == "write" {
			check(t, os.WriteFile(file+".json", pretty.Bytes(), 0o644))
		} else if !bytes.Equal(pretty.Bytes(), p.JSON()) {
			t.Errorf("%s.json is not what disko evaluates of %s.nix; BESIDE=write make presets writes it", p.Name, p.Name)
		}
		system, err := p.System()
		check(t, err)
		ours := eval(t, system.Nix())
		want, got := options(t, is.Config), options(t, ours)
		if !reflect.DeepEqual(want, got) {
			t.Errorf("%s: disko tells NixOS\n%v, and layout show --filesystems\n%v", p.Name, want, got)
		}
	}
}

// sources are the folders of disko and of nixpkgs' lib.
func sources(t *testing.T) (source, lib string) {
	t.Helper()
	source, lib = os.Getenv("PROVISION_DISKO"), os.Getenv("PROVISION_NIXPKGS_LIB")
	for name, file := range map[string]string{"PROVISION_DISKO": source + "/lib/types/gpt.nix", "PROVISION_NIXPKGS_LIB": lib + "/modules.nix"} {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("$%s is not the right folder (see make beside): %v", name, err)
		}
	}
	return source, lib
}

func eval(t *testing.T, expression string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nix-instantiate", append(args, "--eval", "--strict", "--json", "-E", expression)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return out
}

// options merges a NixOS configuration as modules would be, and leaves out what disko has as NixOS's defaults, what
// depends on no device, and the devices' names where a label does instead.
func options(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v any
	check(t, json.Unmarshal(data, &v))
	merged := map[string]any{}
	flatten("", v, merged)
	for path := range merged {
		switch {
		case strings.HasSuffix(path, ".neededForBoot"), strings.HasPrefix(path, ".boot.initrd.kernelModules"), strings.HasSuffix(path, ".allowDiscards") && merged[path] == false,
			strings.HasPrefix(path, ".swapDevices") && !strings.HasSuffix(path, ".device"):
			delete(merged, path)
		}
	}
	for path, v := range merged {
		switch v { // of the Raspberry Pi 3, on its SD card
		case "/dev/mmcblk0p1":
			merged[path] = "/dev/disk/by-label/FIRMWARE"
		case "/dev/mmcblk0p2":
			merged[path] = "/dev/disk/by-label/NIXOS_SD"
		}
	}
	return merged
}

func flatten(path string, v any, into map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		switch v["_type"] {
		case "merge":
			for _, c := range v["contents"].([]any) {
				flatten(path, c, into)
			}
			return
		case "if":
			if v["condition"] == true {
				flatten(path, v["content"], into)
			}
			return
		}
		for k, c := range v {
			flatten(path+"."+k, c, into)
		}
	case []any:
		for i, c := range v {
			if m, ok := c.(map[string]any); ok {
				flatten(path, m, into)
			} else if strings.HasSuffix(path, "options") || strings.HasSuffix(path, "devices") {
				list, _ := into[path].([]any)
				into[path] = append(list, v[i])
			}
		}
	default:
		into[path] = v
	}
}
