package web

import (
	"slices"
	"testing"

	"provision/hosts"
)

// TestWithSecrets: a host that is installed again keeps what it has, but for
// what is given anew.
func TestWithSecrets(t *testing.T) {
	had := hosts.Options{EscrowTo: []string{"age1old"}, KeepSecrets: true, Chown: []hosts.Chown{{Path: "/home/ada", UID: 1, GID: 2}},
		Secrets: []hosts.SecretFile{{Path: "/a", Mode: "0400"}, {Path: "/b", Mode: "0440"}}}
	r := withSecrets(had, EnrollRequest{Secrets: []Secret{{hosts.SecretFile{Path: "/b", Mode: "0600"}, []byte("new")}}})
	var h hosts.Host
	secrets := make(map[string][]byte)
	if err := addSecrets(r, &h, secrets); err != nil {
		t.Fatal(err)
	}
	o := h.Options
	if !r.again || !slices.Equal(o.EscrowTo, had.EscrowTo) || !o.KeepSecrets || !slices.Equal(o.Chown, had.Chown) {
		t.Errorf("%+v", o)
	}
	if want := []hosts.SecretFile{{Path: "/b", Mode: "0600"}, {Path: "/a", Mode: "0400"}}; !slices.Equal(o.Secrets, want) {
		t.Errorf("%+v, want %+v", o.Secrets, want)
	}
	if len(secrets) != 1 || string(secrets[hosts.SecretContent("/b")]) != "new" {
		t.Errorf("sealed anew: %q", secrets)
	}
	if r := withSecrets(had, EnrollRequest{EscrowTo: []string{"age1new"}}); r.again || r.EscrowTo[0] != "age1new" {
		t.Errorf("escrow to %s", r.EscrowTo)
	}
}

func TestAddSecrets(t *testing.T) {
	for name, s := range map[string]Secret{
		"empty": {hosts.SecretFile{Path: "/a", Mode: "0400"}, []byte{}},
		"large": {hosts.SecretFile{Path: "/a", Mode: "0400"}, make([]byte, hosts.MaxSecret+1)},
	} {
		if err := addSecrets(EnrollRequest{Secrets: []Secret{s}}, new(hosts.Host), map[string][]byte{}); err == nil {
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
		err := addSecrets(EnrollRequest{HostKey: one}, new(hosts.Host), secrets)
		if ok != (err == nil) {
			t.Errorf("the same key: %v, error: %v", ok, err)
		}
	}
}
