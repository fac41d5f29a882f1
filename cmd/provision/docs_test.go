package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// generated compares the part of a page of docs/ that the test makes of the code. With -update it writes it.
func generated(t *testing.T, page, want string) {
	t.Helper()
	doc := "../../docs/" + page
	run := "-run " + t.Name() + " -update"
	start, end := "<!-- go test ./cmd/provision "+run+" -->\n", "<!-- end -->"
	data, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), start)
	_, tail, also := strings.Cut(rest, end)
	if !ok || !also {
		t.Fatalf("%s has no place for what is made here", doc)
	}
	switch all := head + start + want + end + tail; {
	case *update:
		if err := os.WriteFile(doc, []byte(all), 0o644); err != nil {
			t.Fatal(err)
		}
	case all != string(data):
		t.Errorf("%s is not what the code says: go test ./cmd/provision %s", doc, run)
	}
}

// TestCommandReference: docs/reference/cli.md has the help of every command.
func TestCommandReference(t *testing.T) {
	var b strings.Builder
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "## %s\n\n```\n%s```\n\n", c.CommandPath(), help.String())
		for _, sub := range c.Commands() {
			add(sub)
		}
	}
	t.Setenv("PROVISION_SOCKET", "")
	for _, c := range rootCommand().Commands() {
		add(c)
	}
	generated(t, "reference/cli.md", b.String())
}

// TestElsewhere: docs/how-to/coming-from.md says of each option of nixos-anywhere what is the same here.
func TestElsewhere(t *testing.T) {
	var b strings.Builder
	b.WriteString("| nixos-anywhere | here |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(elsewhere)) {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		fmt.Fprintf(&b, "| `%s%s` | %s |\n", dashes, name, elsewhere[name])
	}
	generated(t, "how-to/coming-from.md", b.String())
}
