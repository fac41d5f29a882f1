package sshlogin

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// operator is somebody whose ~/.ssh has these files.
func operator(t *testing.T, files map[string]string) Operator {
	t.Helper()
	o := Operator{Name: "ada", UID: "0", Home: t.TempDir()}
	for name, text := range files {
		path := o.file(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "HOME", o.Home)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// comparedConfigs are read by ssh, too. Each is tried for each of the hosts.
var comparedConfigs = map[string]string{
	"the first value wins": `
Host box
  HostName 10.0.0.5
  Port 2222
  User ada
  IdentityFile /keys/box
Host *
  Port 22022
  User bob
  IdentityFile /keys/all
  HostName 10.9.9.9`,
	"before any host": "User carol\nHost box\nUser dave\nPort 23\n",
	"patterns and exceptions": `
Host *.example !db.example web-? "quoted.example"
	Port 2201
host=box
	port = 2202
Host !box
	Port 2203
Host !box *
	Port 2204`,
	"keywords in any case, = and quotes": "hOST=box\n\tHOSTNAME = \"10.0.0.6\"\n\tiDentityFile \"/keys/with space\" # mine\n\tUser=eve\n" +
		"IdentityFile /keys/with\\ space2\nIdentityFile '/keys/third'\n",
	"name by token": "Host box db.example\n HostName %h.lan\nMatch host box.lan\n Port 24\nMatch originalhost db.example\n Port 25\n",
	"match": `
Match host box user root
  Port 2301
Match host *.example,!web.example
  Port 2302
Match !host box
  Port 2303
Match all
  IdentityAgent /run/agent
  IdentitiesOnly yes`,
	"match by user": "Host box\nUser ada\nMatch user ada\nPort 2401\nMatch user bob,root\nPort 2402\n",
	"match with =":  "Match host=box\nPort 2403\n",
	"match final": `
Match final host 10.0.0.7
  Port 2501
  User late
Host box
  HostName 10.0.0.7
  User early`,
	"match final all":  "Match final all\nPort 2502\nHost web-1\nPort 2503\n",
	"jump":             "Host box\nProxyJump ada@gate:2200,inner\nHost *.example\nProxyJump none\nHost *\nProxyJump other\n",
	"command first":    "Host box\nProxyCommand /bin/false %h\nHost *\nProxyJump other\n",
	"jump first":       "Host *\nProxyJump other\nProxyCommand /bin/false\n",
	"known hosts":      "Host box\nUserKnownHostsFile /k/one /k/two\nHostKeyAlias Box.Lab\nStrictHostKeyChecking no\nGlobalKnownHostsFile /k/all\n",
	"the same twice":   "IdentityFile /keys/a\nIdentityFile /keys/b\nIdentityFile /keys/a\nHost box\nIdentityFile none\n",
	"include":          "Include HOME/.ssh/more/*.conf\nHost *\nPort 2602\n",
	"include in host":  "Host box\nInclude HOME/.ssh/more/two.conf\nUser inside\nHost *\nUser outside\n",
	"include a nobody": "Include HOME/.ssh/nowhere/*\nInclude HOME/.ssh/nosuch\nPort 2603\n",
}

// TestConfigAsSSH compares what is read with what ssh reads.
func TestConfigAsSSH(t *testing.T) {
	for name, text := range comparedConfigs {
		t.Run(name, func(t *testing.T) {
			o := operator(t, map[string]string{"config": text,
				"more/one.conf": "Host box\nPort 2600\nHost db.example\nUser included\n",
				"more/two.conf": "Port 2601\nHost web-1\nUser web\n"})
			for _, host := range []string{"box", "db.example", "web.example", "web-1", "quoted.example"} {
				l := &Login{Target: Target{Host: host}, Operators: []Operator{o}}
				compare(t, l, o.file("config"))
				if strings.Contains(text, "ser ") && host == "box" {
					l.Target.User = "root" // typed
					compare(t, l, o.file("config"))
				}
			}
		})
	}
}

// compare asks ssh what holds for the target.
func compare(t *testing.T, l *Login, file string) {
	t.Helper()
	args := []string{"-G", "-F", file}
	if l.Target.User != "" {
		args = append(args, "-l", l.Target.User)
	}
	out, err := exec.Command("ssh", append(args, l.Target.Host)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s: %v: %s", strings.Join(args, " "), err, out)
	}
	want := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		keyword, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if keyword == "identityfile" && want[keyword] != "" {
			text = want[keyword] + " " + text
		}
		want[keyword] = text
	}
	r, err := l.readOptions(l.Target)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{"hostname": r.hostName(), "user": r.userName(), "port": "22"}
	for _, keyword := range []string{"port", "hostkeyalias", "identityagent", "identitiesonly", "proxyjump", "proxycommand", "userknownhostsfile", "globalknownhostsfile"} {
		if v, said := r.one[keyword]; said {
			got[keyword] = v.text
		}
	}
	var keys []string
	for _, v := range r.keys {
		keys = append(keys, v.text)
	}
	if len(keys) > 0 {
		got["identityfile"] = strings.Join(keys, " ")
	}
	if got["proxyjump"] == "none" { // which ssh does not print
		delete(got, "proxyjump")
	}
	if alias := got["hostkeyalias"]; alias != "" {
		got["hostkeyalias"] = strings.ToLower(alias)
		want["hostkeyalias"] = strings.ToLower(want["hostkeyalias"])
	}
	if _, said := r.one["user"]; !said { // ssh then takes who runs it
		want["user"] = "root"
	}
	all := []string{"proxyjump", "proxycommand", "hostkeyalias", "identityagent"} // ssh has none of these by itself
	for _, keyword := range slices.Concat(all, slices.Sorted(maps.Keys(got))) {
		if got[keyword] != want[keyword] {
			t.Errorf("%s@%s: %s is %q, and ssh says %q", l.Target.User, l.Target.Host, keyword, got[keyword], want[keyword])
		}
	}
}
