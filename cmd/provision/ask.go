package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// person is somebody at a terminal who can be asked questions.
type person struct {
	in  *os.File
	out io.Writer
}

// askable returns the person at the terminal; nil if stdin is not a terminal.
func askable(stdin io.Reader, out io.Writer) *person {
	f, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return &person{f, out}
}

// Line asks for a line, and returns it without the newline.
func (t *person) Line(ctx context.Context, prompt string) (string, error) {
	return t.read(ctx, prompt, func() (string, error) {
		line, err := bufio.NewReader(t.in).ReadString('\n')
		return strings.TrimRight(line, "\r\n"), err
	})
}

// Secret asks for a line without showing what is typed.
func (t *person) Secret(ctx context.Context, prompt string) (string, error) {
	return t.read(ctx, prompt, func() (string, error) {
		line, err := term.ReadPassword(int(t.in.Fd()))
		fmt.Fprintln(t.out)
		return string(line), err
	})
}

// read reads an answer, until ctx ends. A read from a terminal cannot be cancelled, so it is abandoned; that is
// acceptable because the program ends then. The terminal's settings are restored.
func (t *person) read(ctx context.Context, prompt string, read func() (string, error)) (string, error) {
	before, err := term.GetState(int(t.in.Fd()))
	if err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}

	fmt.Fprint(t.out, prompt)
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := read()
		done <- answer{text, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return "", fmt.Errorf("read the answer: %w", a.err)
		}
		return a.text, nil
	case <-ctx.Done():
		fmt.Fprintln(t.out)
		_ = term.Restore(int(t.in.Fd()), before) // the error that matters is that of the context
		return "", ctx.Err()
	}
}
