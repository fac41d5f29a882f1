package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestDocsLayouts: the docs list the layouts that there are.
func TestDocsLayouts(t *testing.T) {
	readme, err := os.ReadFile("../../docs/reference/layouts.md")
	if err != nil {
		t.Fatal(err)
	}
	var list bytes.Buffer
	if code := run(t.Context(), []string{"layout", "list"}, nil, &list, os.Stderr); code != 0 || !strings.Contains(string(readme), "```\n"+list.String()+"```\n") {
		t.Errorf("status %d; docs/reference/layouts.md has not\n%s", code, list.String())
	}
}
