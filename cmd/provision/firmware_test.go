package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// mkboot FOLDER NAME... makes files that pass for those of a Raspberry Pi's firmware.
func mkboot(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		file := filepath.Join(ts.MkAbs(args[0]), name)
		ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
		data := "this is " + name + "\n"
		switch {
		case strings.HasSuffix(name, ".elf"):
			data = "\x7fELF" + data
		case strings.Contains(filepath.Ext(name), ".dtb"):
			data = "\xd0\x0d\xfe\xed\x00\x00\x00\x10" + data
		}
		ts.Check(os.WriteFile(file, []byte(data), 0o644))
	}
}
