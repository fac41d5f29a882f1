package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/internal/text"
)

// TestHostileDisk: a machine's words reach the terminal as letters alone, in the picture, the steps and the errors, and
// as escapes in JSON.
func TestHostileDisk(t *testing.T) {
	const evil = "\x1b]0;PWN\x07\x1b[2J\x1b[1;31mX\u202egnp\u2066\u009b31m\u200b\r"
	disk := map[string]any{"name": "vdb", "path": "/dev/vdb", "type": "disk", "size": 100 << 30, "model": "M" + evil, "serial": "S" + evil,
		"pttype": "gpt", "children": []any{map[string]any{"name": "vdb1", "type": "part", "size": 50 << 30, "start": 2048,
			"fstype": "ext4" + evil, "label": "L" + evil, "partlabel": "P" + evil}}}
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	layout := "../../disko/testdata/layouts/luks.json"
	for _, tt := range []struct {
		disk map[string]any
		args []string
	}{
		{disk, nil},
		{disk, []string{"--json"}},
		{map[string]any{"name": "vdc" + evil, "path": "/dev/vdc" + evil, "type": "disk", "size": 100 << 30}, nil}, // there is no vdb
	} {
		data, err := json.Marshal(map[string]any{"blockdevices": []any{tt.disk}})
		if err != nil {
			t.Fatal(err)
		}
		facts := file("facts.json", data)
		var out, errOut bytes.Buffer
		run(t.Context(), append([]string{"plan", "--layout", layout, "--facts", facts}, tt.args...), nil, &out, &errOut)
		for _, printed := range []string{out.String(), errOut.String()} {
			if text.Plain(printed) != printed {
				t.Errorf("%v printed %q", tt.args, printed)
			}
		}
		if !strings.Contains(out.String()+errOut.String(), "vd") {
			t.Errorf("%v printed nothing: %s%s", tt.args, out.String(), errOut.String())
		}
	}
}
