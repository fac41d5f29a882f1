package disko

import (
	"slices"
	"strings"
	"testing"
)

// TestCheckKey: a passphrase must be what somebody can type when the host starts; a key may be any bytes.
func TestCheckKey(t *testing.T) {
	const at = "disk.main.content.partitions.luks.content"
	luks := readFile(t, "layouts/luks.json")
	pool := readFile(t, "layouts/zfs.json")
	for name, c := range map[string]struct {
		layout []byte
		path   string
		typed  bool
	}{
		"passwordFile":      {luks, "/tmp/secret.key", true},
		"asked for":         {edit(t, luks, map[string]any{at + ".askPassword": true}), "/run/provision/passphrase/crypted", true},
		"keyFile":           {edit(t, luks, map[string]any{at + ".settings.keyFile": "/tmp/raw.key"}), "/tmp/raw.key", false},
		"more keys":         {edit(t, luks, map[string]any{at + ".additionalKeyFiles": []any{"/tmp/more.key"}}), "/tmp/more.key", false},
		"of a pool, typed":  {pool, "/run/provision/passphrase/", true},
		"of a pool, a file": {pool, "/tmp/plain key", false},
	} {
		p, err := NewPlan(mustParse(t, c.layout), nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.path == "/run/provision/passphrase/" {
			i := slices.IndexFunc(p.KeyFiles(), func(file string) bool { return strings.HasPrefix(file, c.path) })
			c.path = p.KeyFiles()[i]
		}
		if !slices.Contains(p.KeyFiles(), c.path) {
			t.Errorf("%s: the layout reads %q", name, p.KeyFiles())
		}
		for key, want := range map[string]string{
			"":                       "it is empty",
			"\n":                     "it is empty",
			"\r\n":                   "it is empty",
			"a b \u00e9":             "",
			"secret\n":               "",
			"secret\r\n":             "-carriage return",
			"two\nlines\n":           "-has 2 lines",
			"\n\nthree":              "-has 3 lines",
			"\xff\xfes\x00e\x00":     "-NUL bytes",
			"\uFEFFsecret":           "-byte order mark",
			"bytes\x00\x01\x0d\x0a!": "-NUL bytes",
		} {
			want, passphrase := strings.CutPrefix(want, "-")
			if passphrase && !c.typed {
				want = ""
			}
			err := p.CheckKey(c.path, []byte(key))
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s, %q: %v, want %q", name, key, err, want)
			}
		}
	}
}
