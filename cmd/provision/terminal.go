package main

import (
	"io"
	"os"

	"golang.org/x/term"

	"provision/internal/text"
)

// terminalOf is the terminal that is printed to, or nil.
func terminalOf(w io.Writer) *os.File {
	f, isFile := raw(w).(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return f
}

// raw takes what is printed as it is: files and secrets, which are not for reading.
func raw(w io.Writer) io.Writer {
	if filtered, is := w.(*text.Writer); is {
		return filtered.To
	}
	return w
}

// clearLine begins a line of progress anew.
var clearLine = text.Control("\r\x1b[K")
