package main

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/boards"
)

var update = flag.Bool("update", false, "write the documents that are made of the code")

// byHand are the choices whose flags do more than name a value.
var byHand = map[string]string{
	"disks":     "disk",      // NAME=DISK
	"escrow_to": "escrow-to", // reads files
	"secrets":   "secret",    // reads files
	"chown":     "chown",     // PATH=UID:GID
}

// TestChoiceFlags: every choice has a flag, the same one in all commands.
func TestChoiceFlags(t *testing.T) {
	daemon := &api.Client{}
	for _, c := range []*cobra.Command{enrollCommand(daemon), installCommand(daemon), reinstallCommand(daemon)} {
		for _, ch := range hosts.AllChoices() {
			name := ch.Flag
			if name == "" {
				name = byHand[ch.Name]
			}
			f := c.Flags().Lookup(name)
			if f == nil {
				t.Errorf("%s: %s has no flag", c.Name(), ch.Name)
			} else if ch.Flag != "" && strings.Contains(f.Usage, "{") {
				t.Errorf("%s: --%s: %s", c.Name(), ch.Flag, f.Usage)
			}
		}
	}
	set := setCommand(daemon)
	for _, ch := range hosts.AllChoices() {
		if f := set.Flags().Lookup(ch.Flag); ch.Flag != "" && (f != nil) != (ch.Set != "") {
			t.Errorf("set: --%s is there: %t", ch.Flag, f != nil)
		}
	}
}

// TestChoicesTable: docs/api.md describes every choice.
func TestChoicesTable(t *testing.T) { generated(t, "api.md", choicesTable()) }

func choicesTable() string {
	var b strings.Builder
	b.WriteString("| field | flag | meaning | kept, set |\n|---|---|---|---|\n")
	for _, ch := range hosts.AllChoices() {
		name := ch.Flag
		if name == "" {
			name = byHand[ch.Name]
		}
		var notes []string
		if ch.Once != "" {
			notes = append(notes, "not kept: "+ch.Once)
		}
		if ch.Set != "" {
			notes = append(notes, "can be set")
		}
		help := strings.ReplaceAll(ch.Help, "{boards}", strings.Join(boards.Names(), ", "))
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s |\n", ch.Name, name, strings.ReplaceAll(help, "|", `\|`),
			strings.Join(notes, ", "))
	}
	return b.String()
}

// TestChoicesGiven: only flags that were given are named, and those at their default, too.
func TestChoicesGiven(t *testing.T) {
	var e enrollment
	c := &cobra.Command{}
	e.flags(c, "")
	args := []string{"--tpm2", "--layout", "none", "--keep=false", "--proof", "seen", "--disko", "", "--boot-order=", "--image="}
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if err := e.parse(c); err != nil {
		t.Fatal(err)
	}
	if want := []string{"layout", "tpm2", "proof", "keep_secrets"}; !slices.Equal(e.request.Named, want) {
		t.Errorf("named %v, want %v", e.request.Named, want)
	}
	data, err := e.request.MarshalJSON()
	for _, want := range []string{`"tpm2":"7"`, `"layout":"none"`, `"keep_secrets":false`, `"proof":"seen"`} {
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s has no %s, %v", data, want, err)
		}
	}
	if strings.Contains(string(data), "disko") {
		t.Errorf("%s has what was not given", data)
	}
}
