package installer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/disko"
	"provision/hosts"
	"provision/images"
	"provision/internal/handover"
)

// bootTime is how long a boot that we hand over ourselves may take to begin.
const bootTime = 10 * time.Minute

// bootInstaller makes the machine come to its installer, in the way of the permit. A
// system that works is not taken down before its successor is built.
func (f *reconciler) bootInstaller(ctx context.Context, h hosts.Host) {
	f.mu.Lock()
	b := f.builds[f.name]
	f.mu.Unlock()
	if h.Hardware.Tool == "" && (!b.over() || b.err != nil) { // its event wakes us, or has failed the host
		return
	}
	how, err := f.bringUp(ctx, h)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		f.fail(hosts.PhaseNetboot, err)
	default:
		f.apply(hosts.Event{Kind: hosts.EventSummoned, Message: how})
	}
}

// bringUp does what makes the machine come, and says what that was.
func (f *reconciler) bringUp(ctx context.Context, h hosts.Host) (how string, err error) {
	switch h.Permit.Via {
	case hosts.ViaManual:
		return "switch the machine on, or restart it from the network", nil
	case hosts.ViaWake:
		return f.sendMagic(ctx, h)
	}

	s, err := f.reach(ctx, h)
	switch {
	case (errors.Is(err, errSilent) || h.Permit.Take == nil) && h.Permit.Via == hosts.ViaAuto:
		how, wakeErr := f.sendMagic(ctx, h)
		return fmt.Sprintf("%v; %s", err, how), wakeErr
	case err != nil:
		return "", err
	}
	defer s.client.Close()

	if h.Permit.Take.Installer {
		return f.adopt(h, s)
	}
	t, err := f.upload(ctx, h, s)
	if err != nil {
		return "", err
	}
	defer t.remove(ctx)

	if h.Permit.Via == hosts.ViaNetboot {
		return f.bootNext(ctx, h, t)
	}
	how, err = f.kexec(ctx, h, t)
	if err == nil || h.Permit.Via == hosts.ViaKexec || errors.Is(err, errLost) || ctx.Err() != nil {
		return how, err
	}

	f.note("not by kexec: %v", err)
	how, nextErr := f.bootNext(ctx, h, t)
	if nextErr != nil {
		return "", fmt.Errorf("neither kexec nor the firmware's BootNext works here: %w; %w; "+
			"restart the machine from the network by hand, after `provision retry %s --via manual`", err, nextErr, h.Name)
	}

	return how, nil
}

// errSilent: nothing answers SSH.
var errSilent = errors.New("the machine does not answer SSH")

// reach logs in to what runs on the machine now. It must have the key that is
// known of it.
func (f *reconciler) reach(ctx context.Context, h hosts.Host) (*session, error) {
	take := h.Permit.Take
	if take == nil {
		return nil, fmt.Errorf("what runs on the machine of %s is not known: switch it on by hand (--via manual), "+
			"wake it (--via wol), or use `provision install %s --ssh root@ADDRESS`", h.Name, h.Name)
	}
	var silent []string
	h.Address = take.Address
	for _, addr := range addresses(h) {
		s, proved, other, err := dial(ctx, addr, take.Port, take.HostKey, f.signer)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, errWrongKey):
			return nil, fmt.Errorf("%s answers SSH with the host key %s, and what is to be taken over has %s: not "+
				"touched. "+
				"If the machine has got another key meanwhile, run `provision install %s --ssh root@%s`",
				addr, fingerprint(other), fingerprint(take.HostKey), h.Name, addr)
		case proved:
			return nil, fmt.Errorf("%s has the right host key, and does not let this server in: give root's "+
				"authorized_keys there "+
				"the key in the server's ssh.pub (in the flake, so that it lasts), or run `provision install %s "+
				"--ssh root@%s`", addr, h.Name, addr)
		}

		silent = append(silent, addr)
	}

	return nil, fmt.Errorf("%w at %s", errSilent, strings.Join(append(silent, "no address that is known")[:max(1, len(silent))], ", "))
}

func fingerprint(authorized string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authorized))
	if err != nil {
		return "(unreadable)"
	}
	return ssh.FingerprintSHA256(key)
}

// lookLimit bounds asking an installer for its disks while a person waits.
const lookLimit = time.Minute

// ProbeMachine asks what runs on a host's machine for its disks, and keeps the answer
// for plans. It changes nothing there.
func (in *Installer) ProbeMachine(ctx context.Context, name string) error {
	h, err := in.Hosts.Get(name)
	if err != nil {
		return err
	}

	if h.Connected {
		return nil // the installer has asked already
	}
	f := &reconciler{Installer: in, name: name}
	if h.State == hosts.StateFailed && !h.Boot.Used.IsZero() {
		if seen, err := f.lookAtInstaller(ctx, h); seen {
			return err
		}
	}

	if h.Permit.Take == nil || h.State == hosts.StateInstalled {
		if !h.HasInstalled() {
			return fmt.Errorf("nothing is known to run on the machine of %s", name)
		}
		h.Permit.Take = &hosts.Takeover{Address: h.Address, Port: h.Installed.Port, HostKey: h.Installed.HostKey}
	}

	s, err := f.reach(ctx, h)
	if err != nil {
		return err
	}
	defer s.client.Close()

	raw, err := readFacts(ctx, s, commandLimit, exclusiveLock(disko.Probe(nil)...))
	if err != nil {
		return err
	}

	facts, err := disko.ParseFacts(raw)
	if err != nil {
		return fmt.Errorf("read the machine's disks: %w", err)
	}

	if raw, err = json.Marshal(facts.Restarted()); err != nil {
		return err
	}

	return in.Hosts.SetFacts(name, raw)
}

// lookAtInstaller asks the installer in which an install failed for the machine's disks, if it is
// still up.
func (f *reconciler) lookAtInstaller(ctx context.Context, h hosts.Host) (seen bool, err error) {
	for _, addr := range addresses(h) {
		s, _, _, err := dial(ctx, addr, h.Boot.Port, h.Boot.HostKey, f.signer)
		if err != nil {
			continue
		}
		defer s.client.Close()
		_, err = f.readDisks(ctx, s, lookLimit)
		return true, err
	}
	return false, nil
}

func (f *reconciler) sendMagic(ctx context.Context, h hosts.Host) (string, error) {
	for _, mac := range h.MACs {
		if err := f.Wake(ctx, mac); err != nil {
			return "", fmt.Errorf("wake %s: %w", h.Name, err)
		}
	}
	return "sent magic packets to " + strings.Join(h.MACs, ", ") + "; if the machine does not start by them, " +
		"switch it on. " +
		"Its firmware must start from the network first", nil
}

// adopt takes an installer that runs already for this boot's.
func (f *reconciler) adopt(h hosts.Host, s *session) (string, error) {
	h, err := f.Hosts.BeginBoot(h.Name, hosts.Boot{Client: "an installer that was up", MAC: h.MACs[0], HostKey: h.Permit.Take.HostKey,
		Port: h.Permit.Take.Port, Server: s.local(), SSH: true, Expires: f.Now().Add(bootTime)}, "")
	if err != nil {
		return "", err
	}
	_, err = f.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: s.addr, File: "nothing; it was up", Whole: true})
	return "an installer runs there already, with the host key that was given", err
}

// remoteProgram is our own program on a machine that runs something.
type remoteProgram struct {
	*session
	program string // path on the machine
	facts   handover.Facts
}

// placeScript puts standard input where programs may be executed, and prints the path.
const placeScript = `umask 077
for dir in /run /tmp /var/tmp /root; do
	file=$(mktemp "$dir/provision.XXXXXX" 2>/dev/null) || continue
	chmod 700 "$file"
	printf '#!/bin/sh\n' >"$file"
	if "$file" 2>/dev/null; then
		cat >"$file" && echo "$file"
		exit
	fi
	rm -f "$file"
done
echo "no folder of /run, /tmp, /var/tmp and /root lets programs be executed" >&2
exit 1`

// upload puts our program on the machine.
func (f *reconciler) upload(ctx context.Context, h hosts.Host, s *session) (t remoteProgram, err error) {
	path, err := f.Program(h.Arch)
	if err != nil {
		return t, err
	}

	program, err := os.Open(path)
	if err != nil {
		return t, fmt.Errorf("send our program to the machine: %w", err)
	}
	defer program.Close()

	out, err := s.run(ctx, program, "sh", "-c", placeScript)
	if err != nil {
		return t, fmt.Errorf("send our program to %s: %w", s.addr, err)
	}

	t = remoteProgram{session: s, program: strings.TrimSpace(string(out))}
	if out, err = t.do(ctx, nil, "facts"); err == nil {
		err = json.Unmarshal(out, &t.facts)
	}
	if err == nil && t.facts.Arch != h.Arch {
		err = fmt.Errorf("%s is for %s, and the machine at %s is %s", h.Name, h.Arch, s.addr, t.facts.Arch)
	}
	if err != nil {
		t.remove(ctx)
		return t, fmt.Errorf("ask %s what it is: %w", s.addr, err)
	}
	return t, nil
}

func (t remoteProgram) do(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return t.run(ctx, stdin, append([]string{t.program, "target"}, args...)...)
}

func (t remoteProgram) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialLimit)
	defer cancel()
	_, _ = t.run(ctx, nil, "rm", "-f", "--", t.program) // it may be gone with its machine
}

// bootNext has the firmware start from the network, once.
func (f *reconciler) bootNext(ctx context.Context, h hosts.Host, t remoteProgram) (string, error) {
	out, err := t.do(ctx, nil, "boot-next", "--mac", strings.Join(h.MACs, ","))
	if err != nil {
		return "", err
	}
	var next handover.BootNext
	if err := json.Unmarshal(out, &next); err != nil {
		return "", fmt.Errorf("set BootNext: %w", err)
	}
	if err := restart(ctx, t.session); err != nil {
		undo := []string{"boot-next", "--clear"}
		if next.Had != "" {
			undo = []string{"boot-next", "--restore", next.Had}
		}
		_, undone := t.do(ctx, nil, undo...)
		return "", errors.Join(fmt.Errorf("restart %s: %w", t.addr, err), undone)
	}
	return fmt.Sprintf("restarting from the network: BootNext is %s, %s", next.Entry, next.Label), nil
}

// kexec has the running kernel start the installer's.
func (f *reconciler) kexec(ctx context.Context, h hosts.Host, t remoteProgram) (string, error) {
	img, err := f.Images.Get(h.Image)
	if err != nil {
		return "", err
	}

	h, err = f.Hosts.BeginBoot(h.Name, hosts.Boot{Client: "kexec over SSH", MAC: h.MACs[0], Port: h.Permit.Take.PostKexecPort,
		Server: t.local(), SSH: true, Expires: f.Now().Add(bootTime)}, "")
	if err != nil {
		return "", err
	}

	start := f.Now()
	if err := f.load(ctx, h, t, img); err != nil {
		return "", err
	}
	if _, err := f.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: t.addr, File: "kernel and initrd over SSH", Whole: true}); err != nil {
		return "", err
	}

	how := fmt.Sprintf("kexec: sent %s in %s, starting the "+
		"installer", megabytes(img.Kernel.Size+img.Initrd.Size), elapsed(f.Now(), start))
	started, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()

	_, err = t.do(started, nil, "kexec-start")
	if errors.Is(err, errLost) || errors.Is(err, context.DeadlineExceeded) {
		err = nil // the old kernel says no goodbye
	}
	return how, err
}

// load sends kernel and initrd, as `provision target kexec-load` wants them.
func (f *reconciler) load(ctx context.Context, h hosts.Host, t remoteProgram, img images.Image) error {
	key, err := f.Hosts.Secret(h.Name, hosts.SecretBootKey)
	if err != nil {
		return err
	}

	contract := images.Contract{
		Login:         strings.TrimSpace(string(ssh.MarshalAuthorizedKey(f.signer.PublicKey()))),
		HostKey:       key,
		HostKeyPublic: h.Boot.HostKey,
		MachineID:     h.MachineID(),
		Network:       map[string][]byte{"provision.json": h.About()},
	}
	for name, data := range map[string][]byte{"addrs.json": t.facts.Addrs, "routes-v4.json": t.facts.RoutesV4, "routes-v6.json": t.facts.RoutesV6} {
		if data != nil {
			contract.Network[name] = data
		}
	}

	tail := contract.Tail(img)
	parts := func() (io.Reader, func(), error) {
		kernel, err := f.Images.OpenFile(img.Kernel)
		if err != nil {
			return nil, nil, err
		}
		initrd, err := f.Images.OpenFile(img.Initrd)
		if err != nil {
			kernel.Close()
			return nil, nil, err
		}
		return io.MultiReader(kernel, initrd, bytes.NewReader(tail)), func() { kernel.Close(); initrd.Close() }, nil
	}
	all, done, err := parts()
	if err != nil {
		return err
	}

	sum := sha256.New()
	_, err = io.Copy(sum, all)
	done()
	if err != nil {
		return fmt.Errorf("read image %s: %w", img.Name, err)
	}

	total := img.Initrd.Size + int64(len(tail))
	head, err := json.Marshal(handover.Load{
		Kernel:  uint64(img.Kernel.Size),
		Initrd:  uint64(total),
		SHA256:  hex.EncodeToString(sum.Sum(nil)),
		Cmdline: img.BootCmdline(h.KernelParams) + " BOOTIF=01-" + strings.ReplaceAll(h.Boot.MAC, ":", "-"),
	})
	if err != nil {
		return err
	}

	if all, done, err = parts(); err != nil {
		return err
	}
	defer done()

	sent := &counter{Reader: all}
	reporting, over := context.WithCancel(ctx)
	var reporter sync.WaitGroup
	reporter.Go(func() { f.report(reporting, sent, img.Kernel.Size+total) })
	defer reporter.Wait()

	defer over()

	_, err = t.do(ctx, io.MultiReader(bytes.NewReader(append(head, '\n')), sent), "kexec-load")
	return err
}

// counter counts what is read through it, bytes.
type counter struct {
	io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// report tells once a second how much of it was read, until ctx ends. It must not hold the
// reader up: each telling is a commit that waits for the server's disk.
func (f *reconciler) report(ctx context.Context, c *counter, total int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.advance(hosts.PhaseNetboot, c.n.Load(), total, "bytes")
	}
}
