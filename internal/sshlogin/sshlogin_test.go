package sshlogin

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.5":             " 10.0.0.5 0",
		"ada@10.0.0.5:2222":    "ada 10.0.0.5 2222",
		"fd00::5":              " fd00::5 0",
		"[fd00::5]":            " fd00::5 0",
		"[fd00::5]:22":         " fd00::5 22",
		"ada@[fd00::5]:2222":   "ada fd00::5 2222",
		"fe80::1%eth0":         " fe80::1%eth0 0",
		"box.example":          " box.example 0",
		"a@b@box.example:2022": "a@b box.example 2022",
		"":                     "write [USER@]",
		"root@":                "write [USER@]",
		"@box":                 "write [USER@]",
		"-l@box":               "write [USER@]",
		"box:0":                "ports",
		"box:65536":            "ports",
		"box:ssh":              "ports",
		"[box]:22":             "write [USER@]",
		"-oProxyCommand=x":     "write [USER@]",
		"a b":                  "write [USER@]",
	} {
		to, err := ParseTarget(in)
		got := fmt.Sprint(to.User, " ", to.Host, " ", to.Port)
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != want || err != nil && !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
