package hosts

import "time"

// Kind is the kind of an event: what happened.
type Kind string

// The kinds of events.
const (
	EventEnrolled  Kind = "enrolled"  // by the operator, with a permit
	EventRetried   Kind = "retried"   // by the operator: a failed install continues under its permit
	EventSummoned  Kind = "summoned"  // the machine was made to boot its installer
	EventNetboot   Kind = "netboot"   // a boot was handed to the machine
	EventFetched   Kind = "fetched"   // the machine fetched a file of its boot
	EventContacted Kind = "contacted" // the installer answered with the boot's key
	EventLost      Kind = "lost"      // the SSH session to the installer broke
	EventQueued    Kind = "queued"    // the build waits for a free slot
	EventBuilding  Kind = "building"  // the build starts, or resumes after it waited
	EventBuilt     Kind = "built"     // the host's system is in the server's nix store
	EventBurned    Kind = "burned"    // the permit is burned, or used again, for these disks
	EventStarted   Kind = "started"   // a phase began; others may be running
	EventAdvanced  Kind = "advanced"  // progress of the current phase; only the newest is kept
	EventFinished  Kind = "finished"  // a phase succeeded; others may be running
	EventRebooted  Kind = "rebooted"  // the machine was told to start from its disk; the permit is spent
	EventWaits     Kind = "waits"     // stage 1 waits for a passphrase at Address; empty: not any more
	EventSeen      Kind = "seen"      // the restarted machine showed itself on the network, as Message says; that proves nothing
	EventReturned  Kind = "returned"  // the restarted machine netbooted again; Event.Count says how often
	EventProved    Kind = "proved"    // the host answered with its own key, or did what Choices.Proof asks for
	EventFailed    Kind = "failed"    // Event.Phase and Event.Message say where and why
	EventCancelled Kind = "cancelled" // by the operator
	EventRehearsed Kind = "rehearsed" // a dry run ended; the permit is spent
	EventAddress   Kind = "address"   // the machine was seen at a new address
	EventNote      Kind = "note"      // information that changes nothing
	EventChanged   Kind = "changed"   // by the operator, in a way that needs no decision to erase anything
	EventRestored  Kind = "restored"  // the host was forgotten, and the operator took it back
	EventRevealed  Kind = "revealed"  // escrowed disk keys were handed out, encrypted; Message says to whom
)

// Event is everything that can happen to a host. Which of the fields after Message have a meaning depends on the Kind.
type Event struct {
	Host    string    `json:"host"`
	Number  uint64    `json:"number"` // counted per host, from 1
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	State   State     `json:"state"` // of the host after the event
	Phase   Phase     `json:"phase,omitempty"`
	Message string    `json:"message,omitempty"`

	Work     *Work     `json:"work,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Address  string    `json:"address,omitempty"`
	System   string    `json:"system,omitempty"`
	Machine  string    `json:"machine,omitempty"`
	Layout   string    `json:"layout,omitempty"`
	Method   Method    `json:"method,omitzero"`
	Disks    []Disk    `json:"disks,omitempty"`
	Via      Via       `json:"via,omitempty"`
	Wipe     []string  `json:"wipe,omitempty"`
	Port     int       `json:"port,omitempty"`  // where the host proved itself; 0: 22
	Count    int       `json:"count,omitempty"` // of EventReturned: how often since the restart
	// Stranger means that anybody on the network could have caused the event.
	Stranger bool      `json:"stranger,omitempty"`
	Boot     *Boot     `json:"-"`
	Expected *Expected `json:"-"`
	Enroll   *Host     `json:"-"`
	Change   *Change   `json:"-"`
	// Takes are the Disks of EventBurned in the form that is compared with what was confirmed.
	Takes []Taken `json:"-"`
	// Error becomes the host's Error; of EventCancelled.
	Error string `json:"-"`
	// Confirmed is what the operator agreed to; of EventRetried.
	Confirmed *Confirmed `json:"-"`

	unrecorded bool // it changes the host, but is not written into its log
}

// Work says how much data was sent to a machine, and how.
type Work struct {
	Bytes int64         `json:"bytes"`
	Over  string        `json:"over"`           // http, tftp, ssh
	Took  time.Duration `json:"took,omitempty"` // in ns; left out where the duration of the phase tells it
}
