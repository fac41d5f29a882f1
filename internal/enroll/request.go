package enroll

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"provision/disko"
	"provision/hosts"
)

// Request asks for a host to be enrolled, or to be installed again.
type Request struct {
	Name string   `json:"name"`
	MACs []string `json:"macs"`

	hosts.Choices
	// Secrets are those of the choices, with their contents.
	Secrets []Secret `json:"secrets,omitempty"`
	// DiskKeys are the keys that the layout reads from these paths on the installer.
	DiskKeys map[string][]byte `json:"disk_keys,omitempty"`
	// HostKey is the host's OpenSSH ed25519 private key; left out: the one that it has, or a new one.
	HostKey []byte `json:"host_key,omitempty"`
	// NewIdentity gives a host that is installed again another SSH host key.
	NewIdentity bool `json:"new_identity,omitempty"`

	// Permit is how long the machine has to start its install, nanoseconds.
	Permit time.Duration `json:"permit"`
	// DryRun is that all is done but what changes the machine.
	DryRun bool `json:"dry_run,omitempty"`
	// Via is how the machine is made to come to its installer.
	Via hosts.Via `json:"via,omitempty"`

	// Take is the running machine that shall become the host, and Arch its architecture; provision install finds both.
	Take *hosts.Takeover `json:"take,omitempty"`
	Arch string          `json:"arch,omitempty"`
	// Facts are what that machine's disks are: disko.Facts, as JSON.
	Facts json.RawMessage `json:"facts,omitempty"`

	Agreement

	// Named are the choices that are made, also those at their default. What a host has of the others is kept when it is
	// installed again.
	Named []string `json:"-"`

	escrowKept bool // EscrowTo is what the host has had
}

// MarshalJSON implements [json.Marshaler].
func (r Request) MarshalJSON() ([]byte, error) {
	type plain Request
	return r.MarshalNamed(plain(r), r.Named)
}

// UnmarshalJSON implements [json.Unmarshaler]. A choice that is made with an empty string is not made.
func (r *Request) UnmarshalJSON(data []byte) (err error) {
	type plain Request
	if err := strict(data, (*plain)(r)); err != nil {
		return err
	}
	r.Named, err = hosts.Named(data, `""`)
	return err
}

// strict decodes JSON that has no field but those of to.
func strict(data []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(to)
}

// over is the request to install a host again: what it leaves out is as the host has it.
func (r Request) over(h hosts.Host) Request {
	given := r.Choices
	r.Choices = h.Choices.Again()
	r.Choices.Take(given, r.Named)
	r.Choices.Secrets = nil // r.Secrets are meant
	r.escrowKept = !slices.Contains(r.Named, "escrow_to")
	if r.MACs == nil {
		r.MACs = h.MACs
	}
	for _, f := range h.Secrets {
		if !slices.ContainsFunc(r.Secrets, func(given Secret) bool { return given.Path == f.Path }) {
			r.Secrets = append(r.Secrets, Secret{SecretFile: f})
		}
	}

	return r
}

// Secret is a file for the new system.
type Secret struct {
	hosts.SecretFile
	Content []byte `json:"content"` // hosts.MaxSecret bytes at most; missing: the server has it
}

// Agreement is the part of a request by which its plan is shown before it is carried out.
type Agreement struct {
	// PlanOnly has the request answered with its Proposal; nothing is changed.
	PlanOnly bool `json:"plan_only,omitempty"`
	// Digest is that of the proposal that was shown and confirmed: if the plan is another by now, the error is
	// [Outdated]. Without it, whatever the server plans at that moment is confirmed.
	Digest string `json:"digest,omitempty"`
}

// agrees refuses a request whose confirmation was for another plan.
func (a Agreement) agrees(host string, p *Proposal) error {
	if a.Digest == "" || a.Digest == p.Digest {
		return nil
	}
	return &Outdated{host, p}
}

// Proposal is the plan that a request is for.
type Proposal struct {
	*disko.Plan
	// Digest is of the disks that are taken, of the steps that destroy and of what --wipe names.
	Digest string `json:"digest"`
	// Unfit tells why the layout does not suit the machine as it was seen last. The plan is then made without knowing the
	// machine.
	Unfit string `json:"unfit,omitempty"`
	// Wiped are the disks, for people, that --wipe lets be taken whatever speaks against it.
	Wiped []string `json:"wiped,omitempty"`
	// Warnings are what to know before it is installed, for people.
	Warnings []string `json:"warnings,omitempty"`
	// Beyond says how it goes beyond what was confirmed already, where a failed install goes on.
	Beyond []string `json:"beyond,omitempty"`

	confirmed hosts.Confirmed // what is agreed to by confirming it
}

// Outdated means that a plan was confirmed which is not the one that the server would permit. Nothing was changed.
type Outdated struct {
	Host string
	Plan *Proposal // the one to confirm instead
}

// Error says what to do.
func (e *Outdated) Error() string {
	return fmt.Sprintf("the plan for %s is another than the one that was confirmed, so nothing was changed: "+
		"see the new one, and confirm that", e.Host)
}

// RetryRequest asks for a failed install to go on.
type RetryRequest struct {
	Via  hosts.Via `json:"via,omitempty"`  // empty: as before
	Wipe []string  `json:"wipe,omitempty"` // beside those of the enrolment

	Agreement
}

// SetRequest changes what needs no decision to erase anything. What is left out stays as it is, and what is empty
// becomes the default. Of the choices only those can be changed that have a [hosts.Choice.Set].
type SetRequest struct {
	// MACs are the host's from now on; or all have a sign, and are added (+) or taken away (-).
	MACs []string `json:"macs,omitempty"`
	// Serial is that of its Raspberry Pi.
	Serial *string `json:"serial,omitempty"`
	hosts.Choices
	Named []string `json:"-"` // the choices that are made
}

// MarshalJSON implements [json.Marshaler].
func (r SetRequest) MarshalJSON() ([]byte, error) {
	type plain SetRequest
	return r.MarshalNamed(plain(r), r.Named)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (r *SetRequest) UnmarshalJSON(data []byte) (err error) {
	type plain SetRequest
	if err := strict(data, (*plain)(r)); err != nil {
		return err
	}
	if r.Named, err = hosts.Named(data); err != nil {
		return err
	}
	for _, ch := range hosts.AllChoices() {
		if ch.Set == "" && slices.Contains(r.Named, ch.Name) {
			return fmt.Errorf("%s is chosen for an install: give it to enroll or reinstall", ch.Name)
		}
	}

	return nil
}
