package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A Console is the serial console of a machine: all that it has printed since it was switched on, and a keyboard.
type Console struct {
	in io.Writer

	mu      sync.Mutex
	text    []byte
	came    []arrival     // of the text, in order
	read    int           // Expect goes on from here
	changed chan struct{} // closed and renewed with each output
	ended   bool
}

// arrival is when the text from an offset on came.
type arrival struct {
	offset int
	at     time.Time
}

// newConsole returns a console whose keyboard is in; feed gives it its output.
func newConsole(in io.Writer) *Console { return &Console{in: in, changed: make(chan struct{})} }

// feed takes in what the machine prints, until it ends, and writes it to log as well.
func (c *Console) feed(out io.Reader, log io.Writer) error {
	defer func() {
		c.mu.Lock()
		c.ended = true
		close(c.changed)
		c.mu.Unlock()
	}()
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		if n > 0 {
			if _, err := log.Write(buf[:n]); err != nil {
				return fmt.Errorf("record the console: %w", err)
			}
			c.mu.Lock()
			c.came = append(c.came, arrival{len(c.text), time.Now()})
			c.text = append(c.text, buf[:n]...)
			close(c.changed)
			c.changed = make(chan struct{})
			c.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Expect waits until the machine has printed one of the texts, and returns which. It looks only at what came after the
// text that it returned last; so a dialogue can be followed step by step.
func (c *Console) Expect(ctx context.Context, texts ...string) (string, error) {
	for {
		c.mu.Lock()
		found, end := first(c.text[c.read:], texts)
		if found != "" {
			c.read += end
		}
		ended, changed := c.ended, c.changed
		c.mu.Unlock()
		switch {
		case found != "":
			return found, nil
		case ended:
			return "", fmt.Errorf("the machine ended without having printed %q: %s", texts, tail(c.Text(), 2000))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the console to show %q: %w: %s", texts, ctx.Err(), tail(c.Text(), 2000))
		}
	}
}

// first returns that of the texts which ends first in b, and where it ends.
func first(b []byte, texts []string) (found string, end int) {
	for _, text := range texts {
		if at := bytes.Index(b, []byte(text)); at >= 0 && (found == "" || at+len(text) < end) {
			found, end = text, at+len(text)
		}
	}
	return found, end
}

// Type types text; "\n" is the Enter key.
func (c *Console) Type(text string) error {
	_, err := io.WriteString(c.in, text)
	return err
}

// Text returns all that the machine has printed since it was switched on, escape sequences and all.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Timed returns the text with the time of day at which each line began.
func (c *Console) Timed() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	offset, next := 0, 0
	for line := range strings.Lines(string(c.text)) {
		for next+1 < len(c.came) && c.came[next+1].offset <= offset {
			next++
		}
		b.WriteString(c.came[next].at.Format(time.TimeOnly) + " " + line)
		offset += len(line)
	}
	return b.String()
}
