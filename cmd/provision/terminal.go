package main

import (
	"io"
	"os"

	"golang.org/x/term"

	"provision/internal/text"
)

// terminalOf returns the terminal that w writes to; nil if it is not a terminal.
func terminalOf(w io.Writer) *os.File {
	f, isFile := raw(w).(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return f
}

// terminalSize is how many columns and lines a terminal has; 0: w is none, or does not tell.
func terminalSize(w io.Writer) (columns, lines int) {
	f := terminalOf(w)
	if f == nil {
		return 0, 0
	}
	columns, lines, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, lines
}

// raw returns the unfiltered writer behind w, for output that must not be changed: files and secrets.
func raw(w io.Writer) io.Writer {
	if filtered, is := w.(*text.Writer); is {
		return filtered.To
	}
	return w
}

// clearLine moves to the beginning of the line and clears it.
var clearLine = text.Control("\r\x1b[K")
