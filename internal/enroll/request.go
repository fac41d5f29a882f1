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

// Request asks to enroll a host, or to install it again.
type Request struct {
	Name string   `json:"name"`
	MACs []string `json:"macs"`

	hosts.Choices
	// Secrets replace those in Choices, and have their contents.
	Secrets []Secret `json:"secrets,omitempty"`
	// DiskKeys are the contents of disk keys, by the paths on the installer from which the layout reads them.
	DiskKeys map[string][]byte `json:"disk_keys,omitempty"`
	// HostKey is the host's OpenSSH ed25519 private key; left out: the one that it has, or a new one.
	HostKey []byte `json:"host_key,omitempty"`
	// NewIdentity gives a host that is installed again a new SSH host key.
	NewIdentity bool `json:"new_identity,omitempty"`

	// Permit is how long the permit is valid, in nanoseconds: the install must start within this time.
	Permit time.Duration `json:"permit"`
	// DryRun means that everything is done except what changes the machine.
	DryRun bool `json:"dry_run,omitempty"`
	// Via is how the machine is made to boot its installer.
	Via hosts.Via `json:"via,omitempty"`

	// Take is the running machine that is to become the host, and Arch its architecture. provision install determines
	// both.
	Take *hosts.Takeover `json:"take,omitempty"`
	Arch string          `json:"arch,omitempty"`
	// Facts describe the disks of that machine: disko.Facts as JSON.
	Facts json.RawMessage `json:"facts,omitempty"`

	Agreement

	// Named are the choices that the request makes, including those with the default value. When a host is installed
	// again, it keeps what it has of the others.
	Named []string `json:"-"`

	escrowKept bool // EscrowTo was not given, but is that of the host
}

// MarshalJSON implements [json.Marshaler].
func (r Request) MarshalJSON() ([]byte, error) {
	type plain Request // without methods, so that encoding does not recurse
	return r.MarshalNamed(plain(r), r.Named)
}

// UnmarshalJSON implements [json.Unmarshaler]. A choice with an empty string counts as not made.
func (r *Request) UnmarshalJSON(data []byte) (err error) {
	type plain Request // without methods, so that decoding does not recurse
	if err := strict(data, (*plain)(r)); err != nil {
		return err
	}
	r.Named, err = hosts.Named(data, `""`)
	return err
}

// strict decodes JSON. Fields that to does not have are errors.
func strict(data []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(to)
}

// over returns the request to install host h again, in which everything that r leaves out is as the host has it.
func (r Request) over(h hosts.Host) Request {
	given := r.Choices
	r.Choices = h.Choices.Again()
	r.Choices.Take(given, r.Named)
	r.Choices.Secrets = nil // r.Secrets has them, with contents
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

// Secret is a secret file for the new system.
type Secret struct {
	hosts.SecretFile
	Content []byte `json:"content"` // at most hosts.MaxSecret bytes; missing: the server has it already
}

// Agreement is the part of a request for showing a plan before it is carried out, and for confirming it.
type Agreement struct {
	// PlanOnly asks only for the Proposal; nothing is changed.
	PlanOnly bool `json:"plan_only,omitempty"`
	// Digest is that of the proposal that was shown and confirmed. If the plan has changed since, the error is [Outdated].
	// Without a digest, whatever the server plans at that moment counts as confirmed.
	Digest string `json:"digest,omitempty"`
}

// agrees returns an error if another plan was confirmed.
func (a Agreement) agrees(host string, p *Proposal) error {
	if a.Digest == "" || a.Digest == p.Digest {
		return nil
	}
	return &Outdated{host, p}
}

// Proposal is the plan for a request.
type Proposal struct {
	*disko.Plan
	// Digest covers the disks that are taken, the steps that destroy data, and what --wipe names.
	Digest string `json:"digest"`
	// Unfit says, for people, why the layout does not suit the machine as it was last seen. The plan is then made as if
	// the machine were not known.
	Unfit string `json:"unfit,omitempty"`
	// Wiped are the disks, for people, that are taken in spite of objections because --wipe names them.
	Wiped []string `json:"wiped,omitempty"`
	// Warnings are what to know before the install, for people.
	Warnings []string `json:"warnings,omitempty"`
	// Beyond says, for people, how the plan goes beyond what was confirmed already, when a failed install is retried.
	Beyond []string `json:"beyond,omitempty"`

	confirmed hosts.Confirmed // what the operator agrees to by confirming the plan
}

// Outdated is the error if the confirmed plan is not the one that the server would permit now. Nothing was changed.
type Outdated struct {
	Host string
	Plan *Proposal // the present plan, to be confirmed instead
}

// Error says what to do.
func (e *Outdated) Error() string {
	return fmt.Sprintf("the plan for %s is another than the one that was confirmed, so nothing was changed: "+
		"see the new one, and confirm that", e.Host)
}

// RetryRequest asks to let a failed install continue.
type RetryRequest struct {
	Via  hosts.Via `json:"via,omitempty"`  // empty: as before
	Wipe []string  `json:"wipe,omitempty"` // in addition to those of the enrolment

	Agreement
}

// SetRequest asks to change what needs no decision to erase anything. What is left out stays as it is, and what is
// empty becomes the default. Only choices that have a [hosts.Choice.Set] can be changed.
type SetRequest struct {
	// MACs replace the host's; or all of them begin with a sign, and are added (+) or removed (-).
	MACs []string `json:"macs,omitempty"`
	// Serial is the serial number of its Raspberry Pi; see hosts.Change.
	Serial *string `json:"serial,omitempty"`
	hosts.Choices
	Named []string `json:"-"` // the choices that the request makes
}

// MarshalJSON implements [json.Marshaler].
func (r SetRequest) MarshalJSON() ([]byte, error) {
	type plain SetRequest // without methods, so that encoding does not recurse
	return r.MarshalNamed(plain(r), r.Named)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (r *SetRequest) UnmarshalJSON(data []byte) (err error) {
	type plain SetRequest // without methods, so that decoding does not recurse
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
