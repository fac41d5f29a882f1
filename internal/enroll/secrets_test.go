package enroll

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
)

// TestOver: a host that is installed again keeps what it has, but for what is given anew.
func TestOver(t *testing.T) {
	had := hosts.Host{MACs: []string{"52:54:00:00:00:01"}, Choices: hosts.Choices{
		Image:       "nixos",
		AllowEEPROM: true,
		TPM2:        "7",
		EscrowTo:    []string{"age1old"},
		KeepSecrets: true,
		Disks:       map[string]string{"main": "largest", "data": "/dev/sdb"},
		Wipe:        []string{"S1"},
		Secrets:     []hosts.SecretFile{{Path: "/a", Mode: "0400"}, {Path: "/b", Mode: "0440"}},
	}}
	over := func(request string) Request {
		t.Helper()
		var r Request
		if err := json.Unmarshal([]byte(request), &r); err != nil {
			t.Fatal(err)
		}
		return r.over(had)
	}

	r := over(`{}`)
	want := had.Choices.Again()
	want.Secrets = nil
	if !reflect.DeepEqual(r.Choices, want) || !slices.Equal(r.MACs, had.MACs) || !r.escrowKept || len(r.Secrets) != 2 {
		t.Errorf("%+v, want %+v", r, want)
	}
	if r := over(`{"Disko":"format","proof":"","image":null}`); r.Disko != hosts.Format || r.Image != "nixos" ||
		!slices.Equal(r.Named, []string{"disko"}) {
		t.Errorf("%+v", r)
	}
	r = over(`{"macs":["52:54:00:00:00:02"],"image":"","tpm2":"off","escrow_to":["age1new"],"keep_secrets":false,
		"disks":{"main":"smallest"},"disko":"format","secrets":[{"path":"/b","mode":"0600","content":"bmV3"}]}`)
	want.TPM2 = ""
	want.EscrowTo = []string{"age1new"}
	want.KeepSecrets = false
	want.Disks = map[string]string{"main": "smallest"}
	want.Disko = hosts.Format
	if !reflect.DeepEqual(r.Choices, want) || r.MACs[0] != "52:54:00:00:00:02" || r.escrowKept {
		t.Errorf("%+v, want %+v", r, want)
	}
	secrets := make(map[string][]byte)
	if err := addSecrets(r, secrets); err != nil {
		t.Fatal(err)
	}
	if len(r.Secrets) != 2 || r.Secrets[0].Mode != "0600" || r.Secrets[1].Path != "/a" {
		t.Errorf("%+v", r.Secrets)
	}
	if len(secrets) != 1 || string(secrets[hosts.SecretContent("/b")]) != "new" {
		t.Errorf("sealed anew: %q", secrets)
	}
}

// TestRequests: what a request does not know is refused, and what cannot be changed is.
func TestRequests(t *testing.T) {
	for text, want := range map[string]string{
		`{"name":"bravo","colour":"red"}`: `unknown field "colour"`,
		`{"boot_method":7}`:               "cannot unmarshal",
		`{"proof":"faith"}`:               "--proof faith",
	} {
		if err := json.Unmarshal([]byte(text), new(Request)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		`{"disko":"format"}`: "disko is chosen for an install",
		`{"Disko":"format"}`: "disko is chosen for an install",
		`{"name":"bravo"}`:   `unknown field "name"`,
	} {
		if err := json.Unmarshal([]byte(text), new(SetRequest)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAddSecrets(t *testing.T) {
	for name, s := range map[string]Secret{
		"empty": {hosts.SecretFile{Path: "/a", Mode: "0400"}, []byte{}},
		"large": {hosts.SecretFile{Path: "/a", Mode: "0400"}, make([]byte, hosts.MaxSecret+1)},
	} {
		if err := addSecrets(Request{Secrets: []Secret{s}}, map[string][]byte{}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	_, one, err := hosts.NewKey("one")
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := hosts.NewKey("two")
	if err != nil {
		t.Fatal(err)
	}
	for other, ok := range map[string]bool{string(one): true, string(two): false} {
		secrets := map[string][]byte{hosts.SecretHostKey: []byte(other)} // of the extra files
		err := addSecrets(Request{HostKey: one}, secrets)
		if ok != (err == nil) {
			t.Errorf("the same key: %v, error: %v", ok, err)
		}
	}
}
