package copy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/cache"
	"provision/internal/lab"
)

var words = strings.Fields("store path of a closure with libraries, programs and manuals; text that zlib makes a third of, about as much as in a system")

func newRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// asServer has this program serve a cache, of what its input tells, instead of running tests. Its value is a compression (none or
// zstd), and how many bytes a second go out (0: as fast as it goes).
const asServer = "PROVISION_COPY_SERVER"

func serveCache() int {
	var infos []cache.Path
	c := new(cache.Cache)
	err := json.NewDecoder(os.Stdin).Decode(&infos)
	listener, listenErr := net.Listen("tcp", "127.0.0.1:0")
	var begun unix.Rusage // to start, and to read about the closure, is not yet to serve
	usageErr := unix.Getrusage(unix.RUSAGE_SELF, &begun)
	share, shareErr := c.Open(netip.MustParseAddr("127.0.0.1"), infos)
	var compression string
	var rate int64
	_, scanErr := fmt.Sscan(os.Getenv(asServer), &compression, &rate)
	if err := errors.Join(err, listenErr, usageErr, shareErr, scanErr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if compression == "zstd" {
		share.Compress()
	}
	if rate > 0 {
		listener = lab.Slow(listener, rate)
	}
	fmt.Printf("http://%s%s%s %s %g\n", listener.Addr(), cache.Prefix, share.Token, share.PublicKey, time.Duration(begun.Utime.Nano()+begun.Stime.Nano()).Seconds())
	http.Handle(cache.Prefix, c)
	fmt.Fprintln(os.Stderr, http.Serve(listener, nil))
	return 1
}

// start starts a server that ends with the benchmark at the latest.
func (w *world) start(cmd *exec.Cmd) *exec.Cmd {
	w.Helper()
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := cmd.Start(); err != nil {
		w.Fatalf("%v; .ci/bench says where it comes from", err)
	}
	w.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func (w *world) provision(to, options string) (*exec.Cmd, []string) {
	w.Helper()
	binary, err := os.Executable()
	w.must(err)
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), asServer+"="+options)
	cmd.Stderr = os.Stderr
	paths, err := json.Marshal(w.infos)
	w.must(err)
	cmd.Stdin = strings.NewReader(string(paths))
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.start(cmd)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil && err != io.EOF {
		w.must(err)
	}
	var url, key string
	if _, err := fmt.Sscan(line, &url, &key, &w.before); err != nil {
		w.Fatalf("our server says %q", line)
	}
	return cmd, cache.Fetch(url, key, "local?root="+to, false, w.top)
}

// nginx is asked by the command of an install.
func (w *world) nginx(to string) (*exec.Cmd, []string) {
	server, url := w.startNginx()
	return server, cache.Fetch(url, w.key, "local?root="+to, false, w.top)
}

// nginxCopy is as people fetch out of a binary cache: nix 2.8 asks for one path after the other then.
func (w *world) nginxCopy(to string) (*exec.Cmd, []string) {
	server, url := w.startNginx()
	return server, []string{"nix", "copy", "--log-format", "raw", "--from", url, "--to", to, "--option", "trusted-public-keys", w.key, w.top}
}

func (w *world) startNginx() (_ *exec.Cmd, url string) {
	w.Helper()
	addr := w.free()
	argv, err := lab.Nginx(w.dir, addr, filepath.Join(w.dir, "cache"))
	w.must(err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	w.start(cmd)
	w.answers(addr)
	return cmd, "http://" + addr
}

// ssh is as nixos-anywhere copies (with compression), in nix's two protocols. sshd runs for all rounds.
func (w *world) ssh(to, scheme, compress string) (*exec.Cmd, []string) {
	host, _, _ := net.SplitHostPort(w.sshd)
	return nil, []string{"nix", "copy", "--no-check-sigs", "--to", scheme + "://root@" + host + "?compress=" + compress + "&remote-store=local%3Froot=" + strings.ReplaceAll(to, "/", "%2F"), w.top}
}

func (w *world) startSSHD() {
	w.Helper()
	w.sshd = w.free()
	for _, key := range []string{"id", "host"} {
		w.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(w.dir, key))
	}
	id, err := os.ReadFile(filepath.Join(w.dir, "id.pub"))
	w.must(err)
	host, err := os.ReadFile(filepath.Join(w.dir, "host.pub"))
	w.must(err)
	name, port, _ := net.SplitHostPort(w.sshd)
	conf := filepath.Join(w.dir, "sshd.conf")
	w.must(errors.Join(
		os.WriteFile(filepath.Join(w.dir, "authorized"), id, 0o600),
		os.WriteFile(filepath.Join(w.dir, "known"), fmt.Appendf(nil, "[%s]:%s %s", name, port, host), 0o600),
		os.WriteFile(conf, fmt.Appendf(nil, "ListenAddress %s\nPort %s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nAcceptEnv NIX_CONFIG\n", name, port, w.dir, w.dir), 0o600)))
	sshd, err := exec.LookPath("sshd")
	w.must(err)
	cmd := exec.Command(sshd, "-D", "-e", "-f", conf)
	w.must(os.MkdirAll("/run/sshd", 0o755))
	w.start(cmd)
	w.answers(w.sshd)
}

// free is an address that nobody has yet.
func (w *world) free() string {
	w.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	defer l.Close()
	return l.Addr().String()
}

// answers waits until a server has its port; there is no event before it has.
func (w *world) answers(addr string) {
	w.Helper()
	late := time.After(20 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-tick.C:
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				return
			}
		case <-late:
			w.Fatalf("nobody answers at %s", addr)
		}
	}
}
