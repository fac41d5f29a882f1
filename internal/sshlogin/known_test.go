package sshlogin

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func newKey(t *testing.T) (ed25519.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer
}

// line is a public key as it stands in files.
func line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// TestKnownLines compares the lines that are found with those that ssh-keygen -l -F finds: what it passes over is passed
// over, and nothing else is.
func TestKnownLines(t *testing.T) {
	_, one := newKey(t)
	key := line(one.PublicKey())
	lines := []string{
		"# a comment",
		"",
		"garbage",
		"two words",
		"box " + key,
		"box ssh-mldsa-65 AAAADHNzaC1tbGRzYS02NQ==",
		"box ssh-dss AAAAB3NzaC1kc3MAAACBAP",
		"box ssh-ed25519 !!!not-base64",
		"box ecdsa-sha2-nistp256 " + strings.Fields(key)[1],
		knownhosts.HashHostname("box") + " " + key,
		knownhosts.HashHostname("other") + " " + key,
		"|1|nonsense|x " + key,
		"*.example,!db.example " + key,
		"[box]:2222,[10.0.0.5]:2222 " + key + " a comment",
		"BOX.example " + key,
		"b?x " + key,
		"@cert-authority *.example,box " + key,
		"@revoked * " + key,
		"@unheard-of box " + key,
		"@revoked @cert-authority " + key,
		"  box\t" + key + "\r",
		"box 1024 35 1234567 of-the-first-protocol",
		knownhosts.HashHostname("[box]:2222") + " " + key,
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`# Host \S+ found: line (\d+)`)
	total := 0
	for _, name := range []string{"box", "other", "web.example", "db.example", "box.example", "[box]:2222", "[10.0.0.5]:2222", "nobody"} {
		out, _ := exec.Command("ssh-keygen", "-l", "-F", name, "-f", file).Output() // it fails where there is none
		var want []string
		for _, m := range found.FindAllSubmatch(out, -1) {
			want = append(want, string(m[1]))
		}
		var got []string
		for _, k := range knownKeys([]string{file, file + "-that-is-not-there"}, name) {
			got = append(got, fmt.Sprint(k.line))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: lines %v, and ssh-keygen finds %v", name, got, want)
		}
		total += len(want)
	}
	if total < 15 {
		t.Errorf("ssh-keygen found %d lines in all: it did not understand the file", total)
	}
}
