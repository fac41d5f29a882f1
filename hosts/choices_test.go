package hosts

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// chosen has every choice, and none at its default.
var chosen = Choices{
	Image:             "nixos",
	Board:             "pc",
	FixedAddress:      "10.0.0.7",
	BootMethod:        Method{Offer: OfferFirst, Program: DriverNative},
	KernelParams:      []string{"nomodeset"},
	PiConfig:          []string{"dtparam=pciex1"},
	AllowEEPROM:       true,
	Disko:             Format,
	Preset:            "ext4",
	Disks:             map[string]string{"main": "largest"},
	Wipe:              []string{"S3Z9NB0K"},
	TPM2:              "0+7",
	Hardware:          Hardware{Tool: Facter, Path: "facter.json"},
	BuildOn:           BuildServer,
	StorePath:         "/nix/store/x",
	CopyOver:          CopySSH,
	TargetSubstitutes: true,
	BootOrder:         OrderDiskFirst,
	Proof:             "ssh:2222",
	ExtraFiles:        "/extra",
	EscrowTo:          []string{"age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"},
	Secrets:           []SecretFile{{"/var/lib/a", "0400"}},
	KeepSecrets:       true,
	Chown:             []Chown{{"/home/ada", 1000, 100}},
}

// TestChosen: the test's choices are all that there are.
func TestChosen(t *testing.T) {
	for _, ch := range AllChoices() {
		if reflect.ValueOf(ch.In(&chosen)).Elem().IsZero() {
			t.Errorf("%s is at its default", ch.Name)
		}
		if ch.Name == "" || ch.Help == "" {
			t.Errorf("%+v has no name or no help", ch)
		}
	}
}

// TestChoicesSurvive: every choice is in the store after a restart as it was made, and what another install takes over.
func TestChoicesSurvive(t *testing.T) {
	// Those that do not outlive an install, each for a reason: see Choices.Again.
	once := []string{"store_path", "wipe", "board"}

	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	c := chosen
	c.StorePath, c.Hardware = "", Hardware{} // not together
	for _, choices := range []Choices{c, {StorePath: "/nix/store/x", Hardware: Hardware{}}, {Hardware: chosen.Hardware}} {
		secrets := map[string][]byte{SecretContent("/var/lib/a"): []byte("A")}
		if _, err := inv.Enroll(Host{Name: "alpha", MACs: []string{mac1}, Choices: choices}, 1e9, secrets); err != nil {
			t.Fatal(err)
		}
		db.Close()
		inv, db, _ = open(t, dir)
		h, err := inv.Get("alpha")
		if err != nil || !reflect.DeepEqual(h.Choices, choices) {
			t.Errorf("after a restart\n%+v, want\n%+v, %v", h.Choices, choices, err)
		}
	}
	again := chosen.Again()
	for _, ch := range AllChoices() {
		kept := reflect.DeepEqual(ch.In(&again), ch.In(&chosen))
		if kept == slices.Contains(once, ch.Name) {
			t.Errorf("%s is taken over: %t", ch.Name, kept)
		}
	}
}

// TestNamed: a request says which choices it makes, default or not, and what it leaves out is not made.
func TestNamed(t *testing.T) {
	type request struct {
		Name string `json:"name"`
		Choices
	}
	for _, ch := range AllChoices() {
		for what, made := range map[string]Choices{"default": {}, "chosen": chosen} {
			data, err := made.MarshalNamed(request{Name: "x", Choices: Choices{}}, []string{ch.Name})
			if err != nil {
				t.Fatal(err)
			}
			named, err := Named(data)
			value := reflect.ValueOf(ch.In(&made)).Elem()
			nothing := value.Kind() == reflect.Slice && value.IsNil() || value.Kind() == reflect.Map && value.IsNil()
			if err != nil || slices.Equal(named, []string{ch.Name}) == nothing {
				t.Errorf("%s, %s: named %v in %s, %v", ch.Name, what, named, data, err)
			}
			got := request{Choices: chosen}
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			result := chosen
			result.Take(got.Choices, named)
			want := chosen
			want.Take(made, []string{ch.Name})
			if got, want := inFull(t, result), inFull(t, want); !nothing && got != want {
				t.Errorf("%s, %s: %s made\n%s, want\n%s", ch.Name, what, data, got, want)
			}
		}
	}
}

// inFull is JSON of all choices, also of those at their default.
func inFull(t *testing.T, c Choices) string {
	t.Helper()
	var names []string
	for _, ch := range AllChoices() {
		names = append(names, ch.Name)
	}
	data, err := c.MarshalNamed(struct{}{}, names)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestMethodText: offer and program may be said in either order, and what was remembered is read as it was written.
func TestMethodText(t *testing.T) {
	for text, want := range map[string]Method{
		"":                {},
		"first":           {Offer: OfferFirst},
		"native":          {Program: DriverNative},
		"first+native":    {Offer: OfferFirst, Program: DriverNative},
		"native+first":    {Offer: OfferFirst, Program: DriverNative},
		"u-boot":          {Offer: OfferUBoot},
		"http+snponly":    {Offer: OfferHTTP, Program: DriverFirmware},
		"rom":             {Offer: OfferROM},
		"a newer version": {Offer: "a newer version"},
		"+":               {Offer: "+"},
		"binl+":           {Offer: "binl+"},
		"+native":         {Offer: "+native"},
	} {
		m := Method{Offer: "other", Program: "other"}
		if err := m.UnmarshalText([]byte(text)); err != nil || m != want {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

// TestChoicesRefused: what is no choice is refused, with the option's name.
func TestChoicesRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"disko":"gently"}`:                                "--disko gently: not a way to make disks; choose one of [fresh format mount script]",
		`{"build_on":"moon"}`:                               "--build-on moon: not a place to build",
		`{"copy_over":"ftp"}`:                               "--copy-over ftp: not a way to copy",
		`{"boot_order":"disk-last"}`:                        "--boot-order disk-last: not an order",
		`{"boot_method":"+"}`:                               `boot method "+": choose`,
		`{"boot_method":"binl+"}`:                           `boot method "binl+": choose`,
		`{"boot_method":"grub"}`:                            `boot method "grub": choose`,
		`{"proof":"ssh:0"}`:                                 "--proof ssh:0: write a port",
		`{"proof":"faith"}`:                                 "--proof faith: choose ssh",
		`{"tpm2":"4"}`:                                      "PCR 4 measures",
		`{"tpm2":"x"}`:                                      "write PCRs",
		`{"address":"fe80::1"}`:                             "write an IPv4 address",
		`{"pi_config":["a\nb"]}`:                            "write one line of plain text",
		`{"generate_hardware_config":"lshw"}`:               "not a tool",
		`{"store_path":"/nix/store/x","build_on":"target"}`: "is built already",
		`{"store_path":"result"}`:                           "write an absolute path",
		`{"disko":"script","build_on":"target"}`:            "before there is a disk",
		`{"secrets":[{"path":"x","mode":"0400"}]}`:          "write an absolute path",
	} {
		var c Choices
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			err = c.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestOldRecord: a record of before the choices had the names of requests is read, and written with the new ones.
func TestOldRecord(t *testing.T) {
	const old = `{"name":"alpha","macs":["52:54:00:00:00:01"],"flake":"/f","image":"nixos","board":"pc","arch":"x86_64",
		"options":{"address":"10.0.0.7","method":"first+native","disko":"format","layout":"ext4",
		"hardware":{"tool":"nixos-facter","path":"facter.json"},"target_substitutes":true,"proof":"ssh:2222",
		"disk_keys":["/a","/b"],"generated":["/b"]},"method":"binl+snponly","state":"ready","address":"10.0.0.9"}`
	want := Host{
		Name:      "alpha",
		MACs:      []string{mac1},
		Flake:     "/f",
		Arch:      "x86_64",
		DiskKeys:  []string{"/a", "/b"},
		Generated: []string{"/b"},
		State:     StateReady,
		Address:   "10.0.0.9",
		Method:    Method{Offer: OfferBINL, Program: DriverFirmware},
		Choices: Choices{
			Image:             "nixos",
			Board:             "pc",
			FixedAddress:      "10.0.0.7",
			BootMethod:        Method{Offer: OfferFirst, Program: DriverNative},
			Disko:             Format,
			Preset:            "ext4",
			Hardware:          Hardware{Tool: Facter, Path: "facter.json"},
			TargetSubstitutes: true,
			Proof:             "ssh:2222",
		},
	}
	var h Host
	if err := json.Unmarshal([]byte(old), &h); err != nil || !reflect.DeepEqual(h, want) {
		t.Errorf("%+v, want\n%+v, %v", h, want, err)
	}
	data, err := json.Marshal(h)
	var again Host
	if err = errors.Join(err, json.Unmarshal(data, &again)); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("written and read:\n%s\n%+v, %v", data, again, err)
	}
}
