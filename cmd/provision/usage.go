package main

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// groupKey is the annotation of a flag that says under which heading help shows it.
const groupKey = "provision_group"

// flagGroups are these headings, in the order of help. A flag without a group comes last.
var flagGroups = []struct{ name, title string }{
	{"first", "What most people need"},
	{"machine", "The machine"},
	{"disks", "Disks"},
	{"secrets", "Secrets and files"},
	{"build", "Build and copy"},
	{"boot", "Netboot and installer"},
	{"login", "Login to the running machine"},
	{"", "Other flags"},
}

// group puts flags of a command under a heading.
func group(c *cobra.Command, name string, flags ...string) {
	for _, flag := range flags {
		// It errs only for a flag that does not exist.
		_ = c.Flags().SetAnnotation(flag, groupKey, []string{name})
	}
}

// Help is for a terminal of 80 columns unless there is a wider or a narrower one.
const (
	usualColumns = 80
	leastColumns = 40
	mostColumns  = 100
	slop         = 6 // by so much pflag's lines may be wider than it is told
)

// helpColumns is how wide help may be.
func helpColumns(c *cobra.Command) int {
	width, _ := terminalSize(c.OutOrStdout())
	if width == 0 {
		return usualColumns
	}
	return min(max(width, leastColumns), mostColumns)
}

// setUsage has a command's help in the width of the terminal, its flags in groups.
func setUsage(root *cobra.Command) {
	cobra.AddTemplateFunc("wrapped", func(c *cobra.Command) string { return reflow(c.Long, helpColumns(c)) })
	cobra.AddTemplateFunc("grouped", groupedFlags)
	cobra.AddTemplateFunc("inherited", func(c *cobra.Command) string {
		return c.InheritedFlags().FlagUsagesWrapped(helpColumns(c) - slop)
	})
	root.SetHelpTemplate(`{{with (or (wrapped .) .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`)
	cobra.AddTemplateFunc("use", func(c *cobra.Command) string {
		lines := strings.TrimRight(reflow(c.UseLine(), helpColumns(c)-6), "\n")
		return strings.ReplaceAll(lines, "\n", "\n      ")
	})
	root.SetUsageTemplate(strings.NewReplacer(
		"{{.UseLine}}", "{{use .}}",
		`Use "{{.CommandPath}} [command] --help" for more information about a command.`,
		`See "{{.CommandPath}} COMMAND --help".`,
		"\n\nFlags:\n{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}", "\n{{grouped . | trimTrailingWhitespaces}}",
		"{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}", "{{inherited . | trimTrailingWhitespaces}}",
	).Replace(root.UsageTemplate()))
}

// groupedFlags are a command's own flags under their headings, or under one if they have no groups.
func groupedFlags(c *cobra.Command) string {
	groups := make(map[string]*pflag.FlagSet)
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name := ""
		if of := f.Annotations[groupKey]; len(of) > 0 {
			name = of[0]
		}
		if groups[name] == nil {
			groups[name] = pflag.NewFlagSet(name, pflag.ContinueOnError)
		}
		groups[name].AddFlag(f)
	})

	var b strings.Builder
	for _, g := range flagGroups {
		flags := groups[g.name]
		if flags == nil {
			continue
		}
		title := g.title
		if len(groups) == 1 {
			title = "Flags"
		}
		b.WriteString("\n" + title + ":\n" + flags.FlagUsagesWrapped(helpColumns(c)-slop))
	}

	return b.String()
}

// reflow fills the paragraphs of a text into lines of so many columns. Lines that begin with a space
// stay as they are; one that begins as a command of ours is continued behind a backslash.
func reflow(text string, width int) string {
	var b strings.Builder
	column := 0 // in the line that is being filled
	end := func() {
		if column > 0 {
			b.WriteString("\n")
		}
		column = 0
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, " ") {
			end()
			if strings.HasPrefix(strings.TrimSpace(line), "provision ") {
				line = continued(line, width)
			}
			b.WriteString(line + "\n")
			continue
		}

		for _, word := range strings.Fields(line) {
			size := utf8.RuneCountInString(word)
			if column > 0 && column+1+size > width {
				end()
			}
			if column > 0 {
				b.WriteString(" ")
				column++
			}
			b.WriteString(word)
			column += size
		}
	}

	end()
	return b.String()
}

// continued breaks a shell's command into lines of so many columns.
func continued(line string, width int) string {
	var b strings.Builder
	for utf8.RuneCountInString(line) > width {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		at := strings.LastIndexByte(line[:width-1], ' ')
		if at < indent { // the first word alone is too long
			at = indent + strings.IndexByte(line[indent:], ' ')
		}
		if at < indent {
			break
		}
		b.WriteString(line[:at] + " \\\n")
		line = "    " + line[at+1:]
	}

	return b.String() + line
}
