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

// Choices are what an operator can choose for a host. The zero value of each field is its default. Enrolment requests,
// the inventory and the status all carry this type, and the flags of the command line are generated from it.
//
// The struct tags are:
//
//	json   the name in requests and records
//	flag   the name of the command-line flag; none: the flag is not generated
//	group  the heading that the flag stands under in help
//	help   the help text of the flag
//	noarg  what the flag means when it is given without a value
//	empty  the error message for an empty value; none: an empty value is allowed
//	set    the name in the host's log, for choices that `provision set` changes
//	once   why another install does not take the choice over
//
// docs/api.md has a table that is generated from them.
type Choices struct {
	// Image is a name in the image catalog; empty: the only image for the host's architecture.
	Image string `json:"image,omitempty" flag:"image" group:"boot" set:"image" help:"installer image (default: the only one for the host's architecture)"`
	// Board is the name of the board that the machine is; empty: not known yet, the first netboot request tells.
	Board string `json:"board,omitempty" flag:"board" group:"machine" set:"board" once:"what the machine was recognised as since then comes first" help:"what the machine is: {boards}; auto: what it is recognised as when it asks (default auto)"`
	// FixedAddress is the IPv4 address that the machine gets, in full DHCP mode; empty: any.
	FixedAddress string `json:"address,omitempty" flag:"address" group:"machine" set:"address" help:"fixed IPv4 address (with serve --dhcp server)"`
	// BootMethod restricts how the machine's firmware is answered: the offer, the program, or both; zero: no restriction.
	BootMethod Method `json:"boot_method,omitzero" flag:"boot-method" group:"boot" set:"boot method" help:"the only way to answer its firmware: binl, first, header or plain; snponly or native; or both, first+snponly; for a Raspberry Pi, pi or u-boot (default: what worked, else each in turn)"`
	// KernelParams are added to the kernel command line of the image. They have the form that images.ParseKernelParams
	// returns.
	KernelParams []string `json:"kernel_params,omitempty" flag:"kernel-param" group:"boot" set:"kernel parameters" help:"NAME[=VALUE] to add to the installer's kernel command line, such as console=ttyS0,115200 or nomodeset; empty: none"`
	// PiConfig are lines to add to the config.txt that a Raspberry Pi netboots with.
	PiConfig []string `json:"pi_config,omitempty" flag:"config-txt" group:"boot" help:"LINE to add to the config.txt that a Raspberry Pi netboots with, such as dtparam=pciex1"`
	// AllowEEPROM lets a Raspberry Pi fetch the files with which its firmware rewrites its EEPROM.
	AllowEEPROM bool `json:"allow_eeprom,omitempty" flag:"allow-eeprom-update" group:"boot" help:"let a Raspberry Pi fetch the firmware's recovery and EEPROM files, with which it writes its EEPROM anew"`

	// Disko says whether the host's disks are erased, completed, mounted only, or left to the flake's own script.
	Disko DiskoMode `json:"disko,omitempty" flag:"disko" group:"disks" help:"how its disks are made: fresh, format, mount or script (default fresh)"`
	// Preset is the disk layout of a host whose flake has none.
	Preset Preset `json:"layout,omitempty" flag:"layout" group:"disks" help:"a layout of provision layout list, for a host whose flake has no disko; none: no more"`
	// Disks maps names of disks in the layout to selectors, which say which of the machine's disks is meant; see
	// disko.CheckSelector.
	Disks map[string]string `json:"disks,omitempty" help:"which of the machine's disks are meant, by their names in the layout: serial:SERIAL, wwn:WWN, largest, smallest-nvme and so on, or a path"`
	// Wipe lists disks that may be erased in spite of what speaks against it (in use, removable, another host's): serial
	// numbers, WWNs or paths.
	Wipe []string `json:"wipe,omitempty" flag:"wipe" group:"disks" once:"it was leave to erase what was on a disk then" help:"DISK: take this disk even if it is removable, in use, another host's, or holds Windows, LUKS, ZFS or the like: its serial number, WWN, or a path below /dev/disk"`
	// TPM2 are the PCRs to which the machine's TPM seals the keys of the LUKS containers.
	TPM2 PCRs `json:"tpm2,omitempty" flag:"tpm2" group:"disks" noarg:"7" empty:"--tpm2=: write PCRs, such as --tpm2=0+2+7, or leave out the =" help:"let the machine's TPM 2.0 open the LUKS containers while these PCRs stay as they are, such as 0+2+7 (7 if none are said), beside the passphrase; off: no more"`

	// Hardware says which tool describes the machine's hardware for the flake, and into which file.
	Hardware Hardware `json:"generate_hardware_config,omitzero" flag:"generate-hardware-config" group:"build" help:"TOOL[=PATH]: have nixos-generate-config or nixos-facter look at the machine, and write what it finds into the flake before the build (default PATH: a file in hosts/HOST)"`
	// BuildOn is where the host's system is built.
	BuildOn BuildOn `json:"build_on,omitempty" flag:"build-on" group:"build" help:"where the system is built: server, target or auto: the server if it builds for the host's platform, itself or by a remote builder (default auto)"`
	// StorePath is a system that has been built already, in the server's nix store.
	StorePath string `json:"store_path,omitempty" flag:"store-path" group:"build" once:"the flake is installed as it is then" help:"install this system, which is built and in the server's nix store; the flake says the layout"`
	// CopyOver is how the closure is copied to the machine.
	CopyOver CopyOver `json:"copy_over,omitempty" flag:"copy-over" group:"build" help:"how the system gets to the machine: http: signed, out of this server's binary cache, which is fastest; ssh: encrypted, too; auto: http if the machine reaches it (default auto)"`
	// TargetSubstitutes lets the machine fetch from its own binary caches the store paths that these have.
	TargetSubstitutes bool `json:"substituters_on_target,omitempty" flag:"substituters-on-target" group:"build" help:"have the machine fetch what its binary caches have, instead of copying it from the server"`
	// BootOrder is what the install does to the firmware's boot order.
	BootOrder BootOrder `json:"boot_order,omitempty" flag:"boot-order" group:"machine" set:"boot order" help:"the firmware's boot order after the install: disk-first: the new system's entry comes before all others, and none is removed; keep: as the host's own boot loader leaves it (default keep)"`
	// Proof is what counts as proof that the host is installed.
	Proof Proof `json:"proof,omitempty" flag:"proof" group:"machine" help:"what counts as installed: ssh: it answers with its own SSH key, where the flake has sshd listen, or at ssh:PORT; seen: it asks for an address by its name, or some SSH server answers; none: it left the installer (default ssh)"`

	// ExtraFiles is the absolute path of a folder on the server that is copied over the new root.
	ExtraFiles string `json:"extra_files,omitempty" flag:"extra-files" group:"secrets" help:"folder whose contents are copied over the new root, with modes and owners; whoever owns the folder becomes root"`
	// EscrowTo are the recipients of the disk keys, in the form that ParseRecipient reads.
	EscrowTo []string `json:"escrow_to,omitempty" help:"public keys, age or SSH, for which the disk passphrases are kept; those that are not given are made"`
	// Secrets are files of the new system. Their contents are stored as secrets named "file:PATH".
	Secrets []SecretFile `json:"secrets,omitempty" help:"files of the new system, sealed on the server until they are delivered"`
	// KeepSecrets keeps the contents of Secrets on the server after the host is installed.
	KeepSecrets bool `json:"keep_secrets,omitempty" flag:"keep" group:"secrets" help:"keep the files of --secret on the server after the host is installed, for its next install"`
	// Chown are the owners of files and folders of the new system.
	Chown []Chown `json:"chown,omitempty" help:"owners of files and folders of the new system, and of all below them"`
}

// Again returns the choices for another install of the host, where its operator chooses nothing else. Choices that were
// made for one install only (tag once) are reset to their defaults.
func (c Choices) Again() Choices {
	for _, ch := range AllChoices() {
		if ch.Once != "" {
			reflect.ValueOf(ch.In(&c)).Elem().SetZero()
		}
	}
	return c
}

// Check returns an error if the choices cannot be carried out. What depends on the image, the layout or the board is
// not checked here.
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

// CheckWords returns an error for values that are not among the allowed ones, and for choices that contradict each
// other.
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

// Choice describes one field of [Choices] by its tags.
type Choice struct {
	Name  string // of the JSON field in requests
	Flag  string // of the command line; empty: no flag is generated
	Group string // heading of the flag in help: machine, disks, secrets, build or boot
	Help  string // help text of the flag
	NoArg string // what the flag means without a value; empty: it needs a value
	Empty string // the error message for an empty value; empty: an empty value is allowed
	Set   string // name in the log when it is changed; empty: only an enrolment chooses it
	Once  string // why another install does not take it over; empty: it does

	index int // of the field in Choices
}

// AllChoices describes the fields of [Choices], in their order.
func AllChoices() []Choice {
	t := reflect.TypeFor[Choices]()
	var all []Choice
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		name, _, _ := strings.Cut(tag.Get("json"), ",")
		all = append(all, Choice{
			Name:  name,
			Flag:  tag.Get("flag"),
			Group: tag.Get("group"),
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

// In returns a pointer to the choice's field in c.
func (ch Choice) In(c *Choices) any {
	return reflect.ValueOf(c).Elem().Field(ch.index).Addr().Interface()
}

// describe returns the choice's value in c as text for people; empty: none was chosen.
func (ch Choice) describe(c Choices) string {
	switch v := reflect.ValueOf(c).Field(ch.index).Interface().(type) {
	case encoding.TextMarshaler:
		text, _ := v.MarshalText() // never fails for a choice
		return string(text)
	case []string:
		return strings.Join(v, " ")
	default:
		return fmt.Sprint(v)
	}
}

// Take copies the named choices from another value. The names are those in requests.
func (c *Choices) Take(from Choices, named []string) {
	to, source := reflect.ValueOf(c).Elem(), reflect.ValueOf(from)
	for _, ch := range AllChoices() {
		if slices.Contains(named, ch.Name) {
			to.Field(ch.index).Set(source.Field(ch.index))
		}
	}
}

// MarshalNamed encodes a request as JSON and adds the named choices, even where they have their default value, which
// omitempty would leave out.
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

// Named returns the names of the choices that a request makes, whether they have the default value or not. A field that
// is null, or equal to one of unmade (as JSON), counts as not made.
func Named(request []byte, unmade ...string) ([]string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(request, &fields); err != nil {
		return nil, err
	}
	var named []string
	for _, ch := range AllChoices() {
		for field, value := range fields { // encoding/json matches names in any case
			if strings.EqualFold(field, ch.Name) && string(value) != "null" && !slices.Contains(unmade, string(value)) {
				named = append(named, ch.Name)
			}
		}
	}

	return named, nil
}
