package installer

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/hosts"
)

// What systemd-cryptenroll says before and since systemd 252, and does but for the TPM: it tries the key, and notes its
// arguments.
const (
	oldTool = `case $1 in
--help) echo "  --password  Enroll a user-supplied password"; exit ;;
esac
printf '%s\n' "$@" >>argv
[ $1 != --wipe-slot=tpm2 ] || exit 0
for device; do :; done
printf %s "$PASSWORD" | cryptsetup open --test-passphrase --key-file - "$device"`
	newTool = `case $1 in
--help) echo "  --unlock-key-file=PATH"; exit ;;
esac
printf '%s\n' "$@" >>argv
[ $1 != --wipe-slot=tpm2 ] || exit 0
[ -z "$PASSWORD" ] || exit 9
for arg; do case $arg in --unlock-key-file=*) file=${arg#*=} ;; esac; done
cryptsetup open --test-passphrase --key-file "$file" "$arg"`
)

// TestTPM2Keys: the key that opens a real container comes to systemd-cryptenroll as cryptsetup has it, whatever it is.
func TestTPM2Keys(t *testing.T) {
	text := disko.Container{}
	binary := disko.Container{Binary: true}
	part := disko.Container{Binary: true, Offset: 3, Size: 5}
	for name, c := range map[string]struct {
		disko.Container
		content string
		format  []string // cryptsetup's arguments for the key
	}{
		"passphrase":        {text, "correct horse\\n $(id) 'x'\n\n", []string{"--key-file", "-"}},
		"part of it":        {disko.Container{Offset: 2, Size: 4}, "a passphrase\n", []string{"--key-file", "-", "--keyfile-offset", "2", "--keyfile-size", "4"}},
		"binary":            {binary, "\x01raw\xff\n\n", []string{"--key-file", "KEY"}},
		"part of a binary":  {part, "abc\xfed\ne\nfg", []string{"--key-file", "KEY", "--keyfile-offset", "3", "--keyfile-size", "5"}},
		"binary with zeros": {binary, "\x00raw\x00\n", []string{"--key-file", "KEY"}},
	} {
		for tool, program := range map[string]string{"before 252": oldTool, "since 252": newTool} {
			if tool == "before 252" && name == "binary with zeros" { // refused, see TestTPM2Checks
				continue
			}
			t.Run(name+" "+tool, func(t *testing.T) {
				dir := pretend(t, map[string]string{"systemd-cryptenroll": program})
				key, device := filepath.Join(dir, "the key"), filepath.Join(dir, "device")
				if err := errors.Join(os.WriteFile(key, []byte(c.content), 0o400), os.WriteFile(device, nil, 0o600), os.Truncate(device, 20<<20)); err != nil {
					t.Fatal(err)
				}
				c.Name, c.Device, c.KeyFile = "crypted", device, key
				format := step("format", "cryptsetup", "-q", "luksFormat", device, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
				for _, arg := range c.format {
					format.Argv = append(format.Argv, strings.ReplaceAll(arg, "KEY", key))
				}
				if !c.Binary {
					format.Stdin = key
				}
				s := connect(t)
				if err := batchOf(format, c.Enroll("0+7")).run(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				want := "--wipe-slot=tpm2\n" + device + "\n--tpm2-device=auto\n--tpm2-pcrs=0+7\n"
				if tool == "since 252" {
					want += "--unlock-key-file=/proc/self/fd/3\n"
				}
				if argv, err := os.ReadFile(filepath.Join(dir, "argv")); err != nil || string(argv) != want+device+"\n" {
					t.Errorf("%q, %v", argv, err)
				}
				open := exec.Command("cryptsetup", "open", "--test-passphrase", "--key-file", "-", device)
				open.Stdin = bytes.NewReader(c.Key([]byte(c.content)))
				if out, err := open.CombinedOutput(); err != nil {
					t.Errorf("Key is not the key: %v: %s", err, out)
				}
				if err := os.WriteFile(key, []byte("12345678 another"), 0o400); err != nil {
					t.Fatal(err)
				}
				err := batchOf(c.Enroll("7")).run(t.Context(), s)
				if err == nil || !strings.HasPrefix(err.Error(), "make the TPM open crypted: ") || !strings.Contains(err.Error(), "No key available") || strings.Contains(err.Error(), "another") {
					t.Errorf("with a wrong key: %v", err)
				}
			})
		}
	}
}

// TestCryptenroll: what is missing on the machine is said, with the way out.
func TestCryptenroll(t *testing.T) {
	const list = `[ "$1" = --help ] && { echo "  --unlock-key-file=PATH"; exit; }; [ "$1" = --tpm2-device=list ] || exit 9; `
	for name, c := range map[string]struct{ tool, want string }{
		"all there":    {list + "echo 'PATH DEVICE DRIVER'; echo '/dev/tpmrm0 MSFT0101:00 tpm_crb'", ""},
		"no chip":      {list + "echo No suitable TPM2 devices found. >&2", "has no TPM 2.0 that the installer can see: switch it on in the firmware's setup"},
		"no libraries": {list + "echo TPM2 support is not installed. >&2; exit 1", "systemd-cryptenroll does not work: choose another --image"},
	} {
		t.Run(name, func(t *testing.T) {
			pretend(t, map[string]string{"systemd-cryptenroll": c.tool, "modprobe": "exit 1"})
			binary, err := cryptenroll(t.Context(), connect(t))
			if (err == nil) != (c.want == "") || err == nil && !binary {
				t.Fatalf("%v, %v", binary, err)
			}
			if err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "enroll the host again without --tpm2")) {
				t.Errorf("%v", err)
			}
		})
	}
	s, bin := connect(t), t.TempDir()
	sh, err := exec.LookPath("sh")
	if err == nil {
		err = os.Symlink(sh, filepath.Join(bin, "sh"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	if _, err := cryptenroll(t.Context(), s); err == nil || !strings.Contains(err.Error(), "the installer image has no systemd-cryptenroll: choose another --image") {
		t.Errorf("%v", err)
	}
}

// TestTPM2Checks: what the TPM cannot be made to open is said before the permit is burned, and so is that the layout
// does not have it tried.
func TestTPM2Checks(t *testing.T) {
	const (
		chip   = `case $1 in --tpm2-device=list) echo /dev/tpmrm0 ;; esac`
		at     = "disko/testdata/layouts/luks.json"
		binary = `"settings": {"keyFile": "/tmp/raw.key", "keyFileOffset": 1, "keyFileSize": 2, "crypttabExtraOpts": ["tpm2-device=auto"],`
	)
	data, err := os.ReadFile("../" + at)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from, to, key, tool, want string
		path, note                string
	}{
		"zero byte":         {`"settings": {`, binary, "x\x00y", chip, "has a zero byte, which systemd-cryptenroll takes only since systemd 252", "/tmp/raw.key", ""},
		"zero byte outside": {`"settings": {`, binary, "xyz\x00", chip, "", "/tmp/raw.key", ""},
		"zero byte, new":    {`"settings": {`, binary, "x\x00y", chip + "; echo --unlock-key-file=PATH", "", "/tmp/raw.key", ""},
		"LUKS1":             {`"extraFormatArgs": []`, `"extraFormatArgs": ["--type luks1"]`, "key", chip, "--tpm2: disk.main.content.partitions.luks: crypted is LUKS1", "/tmp/secret.key", ""},
		"not tried":         {"", "", "key", chip, "", "/tmp/secret.key", `settings of crypted have no crypttabExtraOpts = [ "tpm2-device=auto" ]`},
	} {
		t.Run(name, func(t *testing.T) {
			pretend(t, map[string]string{"systemd-cryptenroll": c.tool, "modprobe": "exit 1"})
			inv := inventory(t, t.TempDir())
			h, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{"52:54:00:00:00:01"}, Choices: hosts.Choices{TPM2: "7"}}, time.Hour,
				map[string][]byte{hosts.SecretDisk(c.path): []byte(c.key)})
			if err != nil {
				t.Fatal(err)
			}
			layout, err := disko.Parse(bytes.Replace(data, []byte(c.from), []byte(c.to), 1))
			if err != nil {
				t.Fatal(err)
			}
			plan, err := disko.NewPlan(layout, nil, disko.Options{})
			if err != nil {
				t.Fatal(err)
			}
			f := &reconciler{Installer: &Installer{Hosts: inv, Log: slog.New(slog.DiscardHandler)}, name: "bravo"}
			s := connect(t)
			if err = inHand(f, h, s).checkTPM2(t.Context(), plan); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if c.want != "" {
				if again := (&install{reconciler: f, host: h, session: s, build: &hostBuild{result: result{layout: layout}}}).newDisks().Permit(t.Context(), plan); again == nil || again.Error() != err.Error() {
					t.Errorf("the permit is given: %v", again)
				}
			}
			events, err := inv.Events("bravo", 1)
			if err != nil {
				t.Fatal(err)
			}
			noted := ""
			for _, ev := range events {
				if ev.Kind == hosts.EventBurned {
					t.Error("the permit is burned")
				}
				if ev.Kind == hosts.EventNote {
					noted += ev.Message
				}
			}
			if (noted == "") != (c.note == "") || !strings.Contains(noted, c.note) {
				t.Errorf("noted: %q", noted)
			}
		})
	}
}
