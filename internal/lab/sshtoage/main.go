// Command sshtoage reads an OpenSSH ed25519 private key and prints the age
// identity that ssh-to-age (github.com/Mic92/ssh-to-age) and sops-nix derive from
// it. It stands for them in the test bed, which cannot fetch them.
package main

import (
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

func main() {
	key, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = convert(os.Stdout, key)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sshtoage:", err)
		os.Exit(1)
	}
}

// convert derives as RFC 8032, section 5.1.5 does: the scalar is the first half
// of the seed's SHA-512. Clamping it is left to X25519, as ssh-to-age does.
func convert(w io.Writer, key []byte) error {
	parsed, err := ssh.ParseRawPrivateKey(key)
	if err != nil {
		return err
	}
	private, ok := parsed.(*ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("a %T is no ed25519 key", parsed)
	}
	digest := sha512.Sum512(private.Seed())
	_, err = fmt.Fprintln(w, strings.ToUpper(bech32("age-secret-key-", digest[:32])))
	return err
}

// bech32 encodes 32 bytes as BIP 173 says.
func bech32(prefix string, data []byte) string {
	const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	var values []byte // of five bits
	bits, n := 0, 0
	for _, b := range data {
		bits, n = bits<<8|int(b), n+8
		for ; n >= 5; n -= 5 {
			values = append(values, byte(bits>>(n-5)&31))
		}
	}
	if n > 0 {
		values = append(values, byte(bits<<(5-n)&31))
	}
	var check []byte
	for _, c := range []byte(prefix) {
		check = append(check, c>>5)
	}
	check = append(check, 0)
	for _, c := range []byte(prefix) {
		check = append(check, c&31)
	}
	sum := polymod(append(append(check, values...), 0, 0, 0, 0, 0, 0)) ^ 1
	for i := 5; i >= 0; i-- {
		values = append(values, byte(sum>>(5*i)&31))
	}
	out := prefix + "1"
	for _, v := range values {
		out += letters[v : v+1]
	}
	return out
}

func polymod(values []byte) uint32 {
	sum := uint32(1)
	for _, v := range values {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	return sum
}
