package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestReadmeLayouts: the README lists the layouts that there are.
func TestReadmeLayouts(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	if code := run(t.Context(), []string{"layout", "list"}, nil, &list, os.Stderr); code != 0 || !strings.Contains(string(readme), "```\n"+list.String()+"```\n") {
		t.Errorf("status %d; the README has not\n%s", code, list.String())
	}
}
