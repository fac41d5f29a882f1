package sshlogin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the hash of known_hosts and of %C
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownKey is a line of a known_hosts file.
type knownKey struct {
	file   string
	line   int
	marker string // "", cert-authority or revoked
	key    ssh.PublicKey
}

func (k knownKey) String() string { return fmt.Sprintf("%s:%d", k.file, k.line) }

// knownKeys returns the lines of the files that are about a machine, by the name that sshd(8) uses: [NAME]:PORT if the
// port is not 22. As in ssh, lines that cannot be read are skipped: a file may have keys of types that are newer than
// this program, and skipping a line makes no machine known.
func knownKeys(files []string, name string) []knownKey {
	var found []knownKey
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		number := 0
		for line := range bytes.Lines(data) {
			number++
			marker, names, key, _, _, err := ssh.ParseKnownHosts(line)
			if err != nil || !slices.Contains([]string{"", "cert-authority", "revoked"}, marker) || !namesMatch(name, names) {
				continue
			}
			found = append(found, knownKey{file, number, marker, key})
		}
	}

	return found
}

// namesMatch reports whether the first field of a line names a machine, in plain text or as a hash.
func namesMatch(name string, names []string) bool {
	hashed, is := strings.CutPrefix(names[0], "|1|")
	if !is {
		return matchesList(name, strings.Join(names, ","))
	}
	saltText, sumText, _ := strings.Cut(hashed, "|")
	salt, saltErr := base64.StdEncoding.DecodeString(saltText)
	sum, sumErr := base64.StdEncoding.DecodeString(sumText)
	if saltErr != nil || sumErr != nil {
		return false
	}
	mac := hmac.New(sha1.New, salt)
	mac.Write([]byte(name))
	return hmac.Equal(mac.Sum(nil), sum)
}

// hashOf is the hash for the token %C of ssh_config(5).
func hashOf(s string) string {
	sum := sha1.Sum([]byte(s)) //nolint:gosec // it names a file
	return hex.EncodeToString(sum[:])
}

// knownLines returns the lines that are about the machine (exact) and, if its port is not 22, those about its name
// without the port (loose), which ssh accepts if nothing else is known.
func (s *settings) knownLines() (exact, loose []knownKey) {
	if s.alias != "" {
		return knownKeys(s.knownHosts, s.alias), nil
	}
	host := strings.ToLower(s.host)
	exact = knownKeys(s.knownHosts, knownhosts.Normalize(net.JoinHostPort(host, fmt.Sprint(s.port))))
	if s.port != 22 {
		loose = knownKeys(s.knownHosts, host)
	}
	return exact, loose
}

// keyAlgorithms returns the signature algorithms of host keys for each type of key, in the order in which they are
// requested.
func keyAlgorithms() [][]string {
	return [][]string{{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256}, {ssh.KeyAlgoECDSA384}, {ssh.KeyAlgoECDSA521},
		algorithmsOf(ssh.KeyAlgoRSA)}
}

// algorithmsOf returns the signature algorithms for a type of key.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA { // without SHA-1
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// certAlgorithms returns the algorithms of host certificates, which come first if a certificate authority is known.
func certAlgorithms() []string {
	return []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01}
}

// algorithms returns the algorithms to request in one connection after the other. A machine has host keys of several
// types and shows only one, so the type that is known must be requested. A fingerprint does not tell the type, so each
// one is tried.
func (c *connection) algorithms() [][]string {
	if c.given() != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.given()))
		if err != nil { // it is a fingerprint
			return keyAlgorithms()
		}
		return [][]string{algorithmsOf(key.Type())}
	}

	exact, loose := c.settings.knownLines()
	var first []string
	for _, k := range slices.Concat(exact, loose) {
		switch k.marker {
		case "cert-authority":
			first = append(certAlgorithms(), first...)
		case "":
			first = append(first, algorithmsOf(k.key.Type())...)
		}
	}

	var all []string
	for _, a := range slices.Concat(first, slices.Concat(keyAlgorithms()...)) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}

	return [][]string{all}
}

// errOtherKey means that the machine showed another host key than the given one. It may have that one too, as a key of
// another type.
var errOtherKey = errors.New("not the given host key")

// given returns the host key that the operator gave for this machine; empty for jump hosts, whose keys must be known or
// are asked for.
func (c *connection) given() string {
	if c.primary {
		return c.HostKey
	}
	return ""
}

// judge decides whether a host key is accepted, and says why (how), for people; the error says why not.
func (c *connection) judge(ctx context.Context, remote net.Addr, key ssh.PublicKey) (how string, err error) {
	if c.given() != "" {
		return "as given", c.asGiven(key)
	}
	exact, loose := c.settings.knownLines()
	if cert, is := key.(*ssh.Certificate); is {
		how, err := c.judgeCertificate(cert, remote, slices.Concat(exact, loose))
		if how != "" || err != nil {
			return how, err
		}
		key = cert.Key
	}

	print := ssh.FingerprintSHA256(key)
	for _, k := range slices.Concat(exact, loose) {
		if k.marker == "revoked" && sameKey(k.key, key) {
			return "", fmt.Errorf("%s has the host key %s, which %s revokes", c.settings.name(), print, k)
		}
	}

	var other *knownKey
	for _, k := range slices.Concat(exact, loose) {
		if k.marker == "" && sameKey(k.key, key) {
			return "known from " + k.file, nil
		}
	}

	for _, k := range exact {
		if k.marker == "" && other == nil {
			other = &k
		}
	}

	if other != nil {
		return "", c.changed(key, *other)
	}
	return c.confirm(ctx, key)
}

// sameKey reports whether two public keys are equal.
func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// asGiven returns an error unless the key is that of --ssh-host-key.
func (c *connection) asGiven(key ssh.PublicKey) error {
	want := c.given()
	if given, _, _, _, err := ssh.ParseAuthorizedKey([]byte(want)); err == nil {
		want = ssh.FingerprintSHA256(given)
	}
	if print := ssh.FingerprintSHA256(key); want != print {
		return fmt.Errorf("%s has the host key %s (%s), and --ssh-host-key is %s: %w; the address may be another "+
			"machine's, "+
			"or somebody is in between", c.settings.name(), print, key.Type(), want, errOtherKey)
	}
	return nil
}

// judgeCertificate accepts a certificate that an authority in the known hosts has signed for the machine. If there is
// no such authority, how is empty, and the key in the certificate decides.
func (c *connection) judgeCertificate(cert *ssh.Certificate, remote net.Addr,
	lines []knownKey) (how string, err error) {
	for _, k := range lines {
		if k.marker == "revoked" && (sameKey(k.key, cert.Key) || sameKey(k.key, cert.SignatureKey)) {
			return "", fmt.Errorf("%s has a host key or an authority that %s revokes", c.settings.name(), k)
		}
	}

	i := slices.IndexFunc(lines, func(k knownKey) bool {
		return k.marker == "cert-authority" && sameKey(k.key, cert.SignatureKey)
	})
	if i < 0 {
		return "", nil
	}
	checker := ssh.CertChecker{IsHostAuthority: func(ssh.PublicKey, string) bool { return true }}

	// Certificates are issued for names without ports.
	name := net.JoinHostPort(cmp.Or(c.settings.alias, strings.ToLower(c.settings.host)), "22")
	if err := checker.CheckHostKey(name, remote, cert); err != nil {
		return "", fmt.Errorf("%s has a host certificate that does not hold: %w", c.settings.name(), err)
	}
	return "signed by the authority in " + lines[i].String(), nil
}

// changed returns the error for a machine that is known by another key.
func (c *connection) changed(key ssh.PublicKey, known knownKey) error {
	s := c.settings
	print := ssh.FingerprintSHA256(key)
	name := cmp.Or(s.alias, knownhosts.Normalize(s.address()))
	mend := fmt.Sprintf("run `ssh-keygen -R '%s' -f %s`", name, known.file)
	if c.primary {
		mend += ", or give the new one with --ssh-host-key " + print
	}
	return fmt.Errorf("%s has the host key %s (%s), and %s knows it by %s (%s): somebody may be in between; "+
		"if you know that the key was changed, %s%s", s.name(), print, key.Type(), known, ssh.FingerprintSHA256(known.key), known.key.Type(),
		mend, s.uncheckedWords())
}

// uncheckedWords lists settings that are not honoured, which may explain a refused key; empty if there are none.
func (s *settings) uncheckedWords() string {
	if len(s.unchecked) == 0 {
		return ""
	}
	return " (" + strings.Join(s.unchecked, "; ") + ")"
}

// confirm asks the person whether the key is the machine's, only once for each key.
func (c *connection) confirm(ctx context.Context, key ssh.PublicKey) (how string, err error) {
	s := c.settings
	print := ssh.FingerprintSHA256(key)
	if c.confirmed[print] {
		return "confirmed by you", nil
	}
	mend := "add it to " + s.knownHosts[0]
	if c.primary {
		mend = "add --ssh-host-key " + print
	}
	if c.Ask == nil || s.strict {
		why := "nobody is there to ask"
		if s.strict {
			why = "StrictHostKeyChecking is on"
		}
		return "", fmt.Errorf("%s is not among the known hosts, and %s; its host key is %s (%s): if that is the "+
			"machine's own "+
			"(`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on it), %s%s", s.name(), why, print, key.Type(), mend, s.uncheckedWords())
	}

	answer, err := c.Ask.Line(ctx, fmt.Sprintf("%s is not among the known hosts. Its host key is\n  %s (%s)\n"+
		"Is that the machine's own? Type yes, or paste the fingerprint: ", s.name(), print, key.Type()))
	if err != nil {
		return "", err
	}

	if answer = strings.TrimSpace(answer); answer != "yes" && answer != print {
		return "", fmt.Errorf("the host key of %s, %s, was not confirmed", s.name(), print)
	}
	if c.confirmed == nil {
		c.confirmed = make(map[string]bool)
	}
	c.confirmed[print] = true
	return "confirmed by you", nil
}
