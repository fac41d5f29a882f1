package installer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"provision/hosts"
	"provision/internal/hardware"
)

// hardwareLimit bounds looking at the machine's hardware, and each command on the file.
const hardwareLimit = 5 * time.Minute

// hardware has the live installer look at its machine and puts what it says into the flake,
// if the host was enrolled so. It returns a digest of that.
func (i *install) hardware(ctx context.Context) (digest string, err error) {
	hw := i.host.Hardware
	if hw.Tool == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hardwareLimit, fmt.Errorf("no end within %s", hardwareLimit))
	defer cancel()

	data, err := readHardware(ctx, i.session, hw.Tool)
	if err != nil {
		return "", fmt.Errorf("generate the hardware configuration: %w", err)
	}

	t, err := openTree(i.host.Flake)
	if err == nil {
		defer t.close()
		err = t.write(ctx, hw.Path, data)
	}
	if err != nil {
		return "", fmt.Errorf("write the hardware configuration: %w", err)
	}

	i.note("%s told the hardware; it is in the flake, as %s (%d bytes)", hw.Tool, hw.Path, len(data))
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}

// readHardware runs the tool on the live installer.
func readHardware(ctx context.Context, s *session, tool string) ([]byte, error) {
	const script = `command -v "$0" >/dev/null || { echo "the installer's image has no $0: choose the other tool, or another image"; exit 127; }
exec "$0" "$@"`
	argv := []string{"sh", "-c", script, tool}
	if tool == hosts.GenerateConfig { // the layout says the file systems
		argv = append(argv, "--show-hardware-config", "--no-filesystems")
	}
	var said lastLines
	data, err := s.runWithin(ctx, hardwareLimit, nil, said.add, argv...)
	if err != nil {
		return nil, err
	}
	if data, err = takeHardware(tool, data); err != nil {
		return nil, fmt.Errorf("%w%s", err, said)
	}
	return data, nil
}

// takeHardware is what goes into the flake of what a tool printed. What a machine says is data there, or refused.
func takeHardware(tool string, data []byte) ([]byte, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("%s printed nothing", tool)
	}
	if tool == hosts.Facter {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(data, &object); err != nil {
			return nil, fmt.Errorf("%s printed something that is not a JSON object: %w", tool, err)
		}
		return data, nil
	}

	module, err := hardware.Module(data)
	if err != nil {
		return nil, fmt.Errorf("what %s printed is not taken into the flake, of which it would become code: %w; "+
			"see what runs on the machine, and write the file by hand, without --generate-hardware-config", tool, err)
	}
	return module, nil
}

// Prepare puts an empty hardware file into the flake if there is none yet, and stages it, so
// that the flake evaluates before the machine was seen. What it made, undo takes back.
func Prepare(ctx context.Context, flake string, hw hosts.Hardware) (undo func() error, err error) {
	t, err := openTree(flake)
	if err != nil {
		return nil, err
	}
	defer t.close()

	empty := "{ }\n"
	if hw.Tool == hosts.Facter {
		empty = "{}\n"
	}
	if there, err := t.has(hw.Path); err != nil {
		return nil, err
	} else if there {
		return func() error { return nil }, t.stage(ctx, hw.Path)
	}

	undo = func() error {
		t, err := openTree(flake)
		if err != nil {
			return err
		}
		defer t.close()
		return t.remove(context.WithoutCancel(ctx), hw.Path)
	}
	if err := t.write(ctx, hw.Path, []byte(empty)); err != nil {
		return nil, errors.Join(err, t.remove(context.WithoutCancel(ctx), hw.Path))
	}
	return undo, nil
}
