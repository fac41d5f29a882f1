package lab

import (
	"fmt"
	"os"
	"path/filepath"
)

// Nginx is the command of an nginx that serves the folder root at addr, by sendfile. What it writes for itself
// is in the folder state.
func Nginx(state, addr, root string) (argv []string, err error) {
	conf := filepath.Join(state, "nginx.conf")
	text := "user root; daemon off; worker_processes auto; pid pid; error_log stderr;\nevents {}\nhttp { access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		text += kind + "_temp_path temp;\n" // else in /var/lib/nginx, which only an installed package has
	}
	text += fmt.Sprintf("server { listen %s; root %s; } }\n", addr, root)
	return []string{"nginx", "-p", state, "-c", conf, "-e", "stderr"}, os.WriteFile(conf, []byte(text), 0o600)
}
