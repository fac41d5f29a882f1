package main

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelpFits: no line of any help is wider than 80 columns, and all flags of an enrolment stand under a heading.
func TestHelpFits(t *testing.T) {
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(help.String()) {
			line = strings.TrimRight(line, "\n")
			word := strings.TrimSpace(strings.TrimSuffix(line, " \\"))
			if utf8.RuneCountInString(line) > usualColumns && strings.Contains(word, " ") {
				t.Errorf("%s: %s", c.CommandPath(), line)
			}
			if strings.HasSuffix(line, " \\") && strings.HasPrefix(line, "  --") {
				t.Errorf("%s: a list is broken as a command: %s", c.CommandPath(), line)
			}
		}
		switch c.Name() {
		case "enroll", "install", "reinstall":
			c.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if len(f.Annotations[groupKey]) == 0 && f.Name != "help" {
					t.Errorf("%s: --%s has no group", c.CommandPath(), f.Name)
				}
			})
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(rootCommand())
}

func TestReflow(t *testing.T) {
	const text = "one two three\nfour\n\n  --a   of a list\n  provision --command x\nfive"
	const want = "one two\nthree four\n\n  --a   of a list\n  provision \\\n    --command \\\n    x\nfive\n"
	if got := reflow(text, 10); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
