package text

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"fine\n\tÄ 漢 🖥":                             "fine\n\tÄ 漢 🖥",
		"\x1b[31;1mred\x1b[0m \x1b[2J":              "red ",
		"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b":  "ab",
		"\u009b31mC1\u009d0;title\u009c":            "C1",
		"a\rb\x00c\x7fd\be":                         "abcde",
		"abc\u202egnp\u202c \u2066x\u2069 \u200fy":  "abcgnp x y",
		"ze\u200bro\u2060\ufeff wi\u200ddth\u00ad":  "zero width",
		"fill\u3164er\u115f \ufe0f \U000e0041":      "filler  ",
		"no\u00a0break":                             "no break",
		"unfinished \x1b]0;title\nand another line": "unfinished ]0;title\nand another line",
		"not UTF-8: \x9b31m":                        "not UTF-8: \ufffd31m",
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q became %q, not %q", in, got, want)
		}
	}
}

// TestWriter: only what this program marks as its own reaches the terminal as a control sequence.
func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := &Writer{To: &out}
	for _, part := range []string{
		"a \x1b[31mb", Control("\x1b[1m") + "c\u202e" + Control("\x1b[0m"), "\xe2", "\x80", "\xae", "\xc3", "\xa4", "\x1b", "[2Jd",
	} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("%q: %d, %v", part, n, err)
		}
	}
	if want := "a b\x1b[1mc\x1b[0mä[2Jd"; out.String() != want {
		t.Errorf("%q, not %q", out.String(), want)
	}
}

func TestJSON(t *testing.T) {
	want := "a\u202e \u200b \U000e0041 ä"
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	text := JSON(string(data))
	var got string
	if err := json.Unmarshal([]byte(text), &got); err != nil || got != want || Plain(text) != text {
		t.Errorf("%s: %q, %v", text, got, err)
	}
}

func TestShort(t *testing.T) {
	if got := Short("short", 5); got != "short" {
		t.Errorf("%q", got)
	}
	got := Short("start"+strings.Repeat("ä", 100_000)+"the end", 1001)
	if len(got) > 1100 || !strings.HasPrefix(got, "startä") || !strings.HasSuffix(got, "äthe end") || !strings.Contains(got, "bytes are left out") {
		t.Errorf("%d bytes: %.40q", len(got), got)
	}
}

func TestLines(t *testing.T) {
	var got []string
	w := Lines{To: func(line string) { got = append(got, line) }}
	for _, part := range []string{"a", "b\r\n\nc\n", strings.Repeat("x", 3*MaxLine), strings.Repeat("y", MaxLine), "\nlast"} {
		if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.End()
	if want := "ab c " + strings.Repeat("x", MaxLine) + " last"; strings.Join(got, " ") != want {
		t.Errorf("%.100q", got)
	}
	if cap(w.line) > 2*MaxLine {
		t.Errorf("it holds %d bytes", cap(w.line))
	}
}

func TestLimit(t *testing.T) {
	var out bytes.Buffer
	var full error
	w := Limit{To: &out, Most: 1 << 20, Full: func(err error) { full = err }}
	_, _ = w.Write(make([]byte, 1<<20))
	if full != nil || out.Len() != 1<<20 {
		t.Fatal(full)
	}
	out.Reset()
	w = Limit{To: &out, Most: 1 << 20, Full: w.Full}
	_, _ = w.Write(make([]byte, 1<<20+1))
	_, _ = w.Write([]byte("x")) // would fit, but something before it is missing
	if full == nil || !strings.Contains(full.Error(), "more than 1 MiB") || out.Len() != 0 {
		t.Errorf("%v, %d bytes", full, out.Len())
	}
}
