package hosts

import (
	"encoding"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Choices are what an operator can choose for a host. The zero value of each is its default. Enrolments, the inventory
// and the status carry them, and the command line's flags are made of them.
//
// Of the tags, json is the name in requests, flag that of the option (where the command line adds it by itself) and
// help what is said of it; noarg is what the option means without a value, and empty why it is refused with an empty
// one. set, for what `provision set` changes, are the words by which a host's log calls it, and once is why another
// install does not take the choice over. docs/api.md has the table that is made of them.
type Choices struct {
	// Image is a name in the image catalog; empty: the only image for the host's architecture.
	Image string `json:"image,omitempty" flag:"image" set:"image" help:"installer image (default: the only one for the host's architecture)"`
	// Board is what the machine is, by the name of a board; empty: not known yet, and the first request tells.
	Board string `json:"board,omitempty" flag:"board" set:"board" once:"what the machine was recognised as since then comes first" help:"what the machine is: {boards}; auto: what it is recognised as when it asks (default auto)"`
	// FixedAddress is the IPv4 address that the machine gets, in full DHCP mode; empty: any.
	FixedAddress string `json:"address,omitempty" flag:"address" set:"address" help:"fixed IPv4 address (with serve --dhcp server)"`
	// BootMethod is the only way to answer the machine's firmware, or the half of it that is given; zero: any.
	BootMethod Method `json:"boot_method,omitzero" flag:"boot-method" set:"boot method" help:"the only way to answer its firmware: binl, first, header or plain; snponly or native; or both, first+snponly; for a Raspberry Pi, pi or u-boot (default: what worked, else each in turn)"`
	// KernelParams are added to the kernel command line of the image, as images.ParseKernelParams returns them.
	KernelParams []string `json:"kernel_params,omitempty" flag:"kernel-param" set:"kernel parameters" help:"NAME[=VALUE] to add to the installer's kernel command line, such as console=ttyS0,115200 or nomodeset; empty: none"`
	// PiConfig are lines to add to the config.txt that a Raspberry Pi netboots with.
	PiConfig []string `json:"pi_config,omitempty" flag:"config-txt" help:"LINE to add to the config.txt that a Raspberry Pi netboots with, such as dtparam=pciex1"`
	// AllowEEPROM lets a Raspberry Pi fetch the files that make it write its EEPROM anew.
	AllowEEPROM bool `json:"allow_eeprom,omitempty" flag:"allow-eeprom-update" help:"let a Raspberry Pi fetch the firmware's recovery and EEPROM files, with which it writes its EEPROM anew"`

	// Disko is how the host's disks are made.
	Disko DiskoMode `json:"disko,omitempty" flag:"disko" help:"how its disks are made: fresh, format, mount or script (default fresh)"`
	// Preset is the disk layout of a host whose flake has none.
	Preset Preset `json:"layout,omitempty" flag:"layout" help:"a layout of provision layout list, for a host whose flake has no disko; none: no more"`
	// Disks say which of the machine's disks are meant, by their names in the layout: disko.CheckSelector.
	Disks map[string]string `json:"disks,omitempty" help:"which of the machine's disks are meant, by their names in the layout: serial:SERIAL, wwn:WWN, largest, smallest-nvme and so on, or a path"`
	// Wipe are disks that may be erased whatever speaks against it: serial numbers, WWNs, paths.
	Wipe []string `json:"wipe,omitempty" flag:"wipe" once:"it was leave to erase what was on a disk then" help:"DISK: take this disk even if it is removable, in use, another host's, or holds Windows, LUKS, ZFS or the like: its serial number, WWN, or a path below /dev/disk"`
	// TPM2 are the PCRs by which the machine's TPM opens the disks.
	TPM2 PCRs `json:"tpm2,omitempty" flag:"tpm2" noarg:"7" empty:"--tpm2=: write PCRs, such as --tpm2=0+2+7, or leave out the =" help:"let the machine's TPM 2.0 open the LUKS containers while these PCRs stay as they are, such as 0+2+7 (7 if none are said), beside the passphrase; off: no more"`

	// Hardware is what the live installer finds out about the machine for the flake.
	Hardware Hardware `json:"generate_hardware_config,omitzero" flag:"generate-hardware-config" help:"TOOL[=PATH]: have nixos-generate-config or nixos-facter look at the machine, and write what it finds into the flake before the build (default PATH hosts/HOST/hardware-configuration.nix or facter.json)"`
	// BuildOn is where the host's system is built.
	BuildOn BuildOn `json:"build_on,omitempty" flag:"build-on" help:"where the system is built: server, target or auto: the server if it builds for the host's platform, itself or by a remote builder (default auto)"`
	// StorePath is a system that is built already, in the server's nix store.
	StorePath string `json:"store_path,omitempty" flag:"store-path" once:"the flake is installed as it is then" help:"install this system, which is built and in the server's nix store; the flake says the layout"`
	// CopyOver is how the closure goes to the machine.
	CopyOver CopyOver `json:"copy_over,omitempty" flag:"copy-over" help:"how the system gets to the machine: http: signed, out of this server's binary cache, which is fastest; ssh: encrypted, too; auto: http if the machine reaches it (default auto)"`
	// TargetSubstitutes has the machine fetch from its own binary caches what these have.
	TargetSubstitutes bool `json:"substituters_on_target,omitempty" flag:"substituters-on-target" help:"have the machine fetch what its binary caches have, instead of copying it from the server"`
	// BootOrder is what the install does to the firmware's boot order.
	BootOrder BootOrder `json:"boot_order,omitempty" flag:"boot-order" set:"boot order" help:"the firmware's boot order after the install: disk-first: the new system's entry comes before all others, and none is removed; keep: as the host's own boot loader leaves it (default keep)"`
	// Proof is what counts as installed.
	Proof Proof `json:"proof,omitempty" flag:"proof" help:"what counts as installed: ssh: it answers with its own SSH key, where the flake has sshd listen, or at ssh:PORT; seen: it asks for an address by its name, or some SSH server answers; none: it left the installer (default ssh)"`

	// ExtraFiles is the absolute path of a folder on the server that is copied over the new root.
	ExtraFiles string `json:"extra_files,omitempty" flag:"extra-files" help:"folder whose contents are copied over the new root, with modes and owners; whoever owns the folder becomes root"`
	// EscrowTo are the recipients of the disk keys: ParseRecipient.
	EscrowTo []string `json:"escrow_to,omitempty" help:"public keys, age or SSH, for which the disk passphrases are kept; those that are not given are made"`
	// Secrets are files of the new system. Their contents are secrets named "file:PATH".
	Secrets []SecretFile `json:"secrets,omitempty" help:"files of the new system, sealed on the server until they are delivered"`
	// KeepSecrets keeps the contents of Secrets on the server after the host is installed.
	KeepSecrets bool `json:"keep_secrets,omitempty" flag:"keep" help:"keep the files of --secret on the server after the host is installed, for its next install"`
	// Chown are the owners of files and folders of the new system.
	Chown []Chown `json:"chown,omitempty" help:"owners of files and folders of the new system, and of all below them"`
}

// Again are the choices with which a host is installed again, where its operator says nothing else. What was chosen for
// one install is not among them.
func (c Choices) Again() Choices {
	for _, ch := range AllChoices() {
		if ch.Once != "" {
			reflect.ValueOf(ch.In(&c)).Elem().SetZero()
		}
	}
	return c
}

// Check refuses what cannot be carried out, but for what only the image, the layout or the board can tell.
func (c Choices) Check() error {
	if err := c.checkSecrets(); err != nil {
		return err
	}
	for _, line := range c.PiConfig {
		if line == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("--config-txt %q: write one line of plain text, such as dtparam=pciex1", line)
		}
	}

	if err := c.CheckWords(); err != nil {
		return err
	}

	if c.FixedAddress == "" {
		return nil
	}
	if a, err := netip.ParseAddr(c.FixedAddress); err != nil || !a.Is4() {
		return fmt.Errorf("address %q: write an IPv4 address, such as 192.168.1.20", c.FixedAddress)
	}
	return nil
}

// CheckWords refuses words that are no choices, and choices that cannot be had together.
func (c Choices) CheckWords() error {
	if c.BootMethod != (Method{}) {
		if _, err := ParseMethod(c.BootMethod.String()); err != nil {
			return err
		}
	}
	if err := c.TPM2.check(); err != nil {
		return err
	}
	return c.checkBuild()
}

// Choice is one of the fields of [Choices].
type Choice struct {
	Name  string // in requests
	Flag  string // of the command line; empty: it is not added by itself
	Help  string // what the flag does
	NoArg string // what the flag means without a value; empty: it needs one
	Empty string // why the flag is refused with an empty value; empty: it is not
	Set   string // what it is called where it is changed; empty: only an enrolment chooses it
	Once  string // why another install does not take it over; empty: it does

	index int
}

// AllChoices describes the fields of [Choices].
func AllChoices() []Choice {
	t := reflect.TypeFor[Choices]()
	var all []Choice
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, _, _ := strings.Cut(tag.Get("json"), ",")
		all = append(all, Choice{
			Name:  name,
			Flag:  tag.Get("flag"),
			Help:  tag.Get("help"),
			NoArg: tag.Get("noarg"),
			Empty: tag.Get("empty"),
			Set:   tag.Get("set"),
			Once:  tag.Get("once"),
			index: i,
		})
	}

	return all
}

// In is a pointer to the choice's value in c.
func (ch Choice) In(c *Choices) any {
	return reflect.ValueOf(c).Elem().Field(ch.index).Addr().Interface()
}

// describe is the choice's value for people; empty: none.
func (ch Choice) describe(c Choices) string {
	switch v := reflect.ValueOf(c).Field(ch.index).Interface().(type) {
	case encoding.TextMarshaler:
		text, _ := v.MarshalText() // of a choice it never fails
		return string(text)
	case []string:
		return strings.Join(v, " ")
	default:
		return fmt.Sprint(v)
	}
}

// Take takes the named choices, by their names in requests, from another.
func (c *Choices) Take(from Choices, named []string) {
	to, source := reflect.ValueOf(c).Elem(), reflect.ValueOf(from)
	for _, ch := range AllChoices() {
		if slices.Contains(named, ch.Name) {
			to.Field(ch.index).Set(source.Field(ch.index))
		}
	}
}

// MarshalNamed adds the named choices to a request, which holds the others if they are not the default.
func (c Choices) MarshalNamed(request any, named []string) ([]byte, error) {
	data, err := json.Marshal(request)
	if err != nil || len(named) == 0 {
		return data, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	for _, ch := range AllChoices() {
		if !slices.Contains(named, ch.Name) {
			continue
		}
		if fields[ch.Name], err = json.Marshal(ch.In(&c)); err != nil {
			return nil, err
		}
	}

	return json.Marshal(fields)
}

// Named are the names of the choices that a request makes, default or not. Those with one of these values, as JSON, or
// with null are not made.
func Named(request []byte, unmade ...string) ([]string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(request, &fields); err != nil {
		return nil, err
	}
	var named []string
	for _, ch := range AllChoices() {
		for field, value := range fields { // encoding/json takes names in any case
			if strings.EqualFold(field, ch.Name) && string(value) != "null" && !slices.Contains(unmade, string(value)) {
				named = append(named, ch.Name)
			}
		}
	}

	return named, nil
}
