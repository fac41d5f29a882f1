package main

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
	"provision/internal/enroll"
)

// toEnroll selects the choices that an enrolment has flags for, and toSet those that can be changed later.
func toEnroll(ch hosts.Choice) bool { return ch.Flag != "" }
func toSet(ch hosts.Choice) bool    { return ch.Set != "" }

// choiceFlags adds flags for the selected choices to a command, as hosts.Choices describes them.
func choiceFlags(c *cobra.Command, choices *hosts.Choices, which func(hosts.Choice) bool) {
	for _, ch := range hosts.AllChoices() {
		if which(ch) {
			choiceFlag(c, ch, ch.In(choices))
		}
	}
}

// choiceFlag adds the flag for a choice. to is a pointer to its value.
func choiceFlag(c *cobra.Command, ch hosts.Choice, to any) {
	fl := c.Flags()
	help := strings.ReplaceAll(ch.Help, "{boards}", strings.Join(boards.Names(), ", "))
	switch to := to.(type) {
	case *bool:
		fl.BoolVar(to, ch.Flag, *to, help)
	case *[]string:
		fl.StringArrayVar(to, ch.Flag, *to, help)
	case *string:
		fl.StringVar(to, ch.Flag, *to, help)
	case encoding.TextUnmarshaler:
		fl.Var(&textFlag{to: to, empty: ch.Empty}, ch.Flag, help)
	default:
		panic(fmt.Sprintf("--%s: a choice of a type that is not a flag's", ch.Flag))
	}

	group(c, ch.Group, ch.Flag)
	if ch.NoArg != "" {
		fl.Lookup(ch.Flag).NoOptDefVal = ch.NoArg
	}

	var complete cobra.CompletionFunc
	switch listed, ok := to.(interface{ Words() []string }); {
	case ok:
		complete = completeWays(listed.Words()...)
	case ch.Flag == "board":
		complete = completeWays(append(boards.Names(), enroll.AutoBoard)...)
	case ch.Flag == "layout":
		complete = func(c *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return completePresets(c, nil, typed)
		}
	default:
		return
	}

	// The error would mean that the flag does not exist.
	_ = c.RegisterFlagCompletionFunc(ch.Flag, complete)
}

// textFlag is the flag of a choice that parses its own value.
type textFlag struct {
	to    encoding.TextUnmarshaler
	text  string // as it was typed
	empty string // error message for an empty value; empty: an empty value is allowed
}

// Set implements [pflag.Value].
func (f *textFlag) Set(s string) error {
	if s == "" && f.empty != "" {
		return errors.New(f.empty)
	}
	f.text = s
	return f.to.UnmarshalText([]byte(s))
}

func (f *textFlag) String() string { return f.text }

// Type implements [pflag.Value]. The help text shows it.
func (f *textFlag) Type() string { return "string" }

// isChoice reports whether a flag's value is a textFlag, whose errors say what to write instead.
func isChoice(f *pflag.Flag) bool {
	_, is := f.Value.(*textFlag)
	return is
}

// choiceOf returns the choice with this name, which must exist.
func choiceOf(name string) hosts.Choice {
	all := hosts.AllChoices()
	return all[slices.IndexFunc(all, func(ch hosts.Choice) bool { return ch.Name == name })]
}

// givenChoices returns the names of the selected choices whose flags were given.
func givenChoices(c *cobra.Command, which func(hosts.Choice) bool) (names []string) {
	for _, ch := range hosts.AllChoices() {
		if which(ch) && c.Flags().Changed(ch.Flag) {
			names = append(names, ch.Name)
		}
	}
	return names
}

// saidChoices returns the names of the choices that an enrolment makes. A flag with an empty value does not count: a
// reinstall then keeps what the host has.
func saidChoices(c *cobra.Command) []string {
	return givenChoices(c, func(ch hosts.Choice) bool {
		return toEnroll(ch) && c.Flags().Lookup(ch.Flag).Value.String() != ""
	})
}

// checkChoices returns an error for choices that the server would refuse, as far as that is known here.
func checkChoices(c hosts.Choices) error {
	if err := c.CheckWords(); err != nil {
		return err
	}
	if c.Board != "" && c.Board != enroll.AutoBoard {
		if _, err := boards.Parse(c.Board); err != nil {
			return fmt.Errorf("--board: %w", err)
		}
	}

	if _, err := images.ParseKernelParams(c.KernelParams); err != nil {
		return err
	}

	if c.Preset != "" {
		if _, err := disko.FindPreset(string(c.Preset)); err != nil {
			return err
		}
	}

	if slices.Contains(c.Wipe, "") {
		return fmt.Errorf("--wipe: name a disk by its serial number")
	}
	return nil
}
