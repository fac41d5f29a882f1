package hosts

import "time"

// Kind is what happened.
type Kind string

// The kinds of events.
const (
	EventEnrolled  Kind = "enrolled"  // by the operator, with a permit
	EventRetried   Kind = "retried"   // by the operator: a failed install goes on under its permit
	EventSummoned  Kind = "summoned"  // the machine was made to come to its installer
	EventNetboot   Kind = "netboot"   // a boot was handed to the machine
	EventFetched   Kind = "fetched"   // the machine fetched a file of its boot
	EventContacted Kind = "contacted" // the installer answered with the boot's key
	EventLost      Kind = "lost"      // the SSH session to the installer broke
	EventQueued    Kind = "queued"    // the build waits for its turn
	EventBuilding  Kind = "building"  // the build begins, or goes on after it waited
	EventBuilt     Kind = "built"     // the host's system is in our store
	EventBurned    Kind = "burned"    // the permit is burned, or taken up again, for these disks
	EventStarted   Kind = "started"   // a phase began; others may be under way
	EventAdvanced  Kind = "advanced"  // progress within the phase that is waited for; only the newest is kept
	EventFinished  Kind = "finished"  // a phase ended well; others may be under way
	EventRebooted  Kind = "rebooted"  // told to start from its disk; the permit is spent
	EventWaits     Kind = "waits"     // stage 1 of the restarted machine waits for a passphrase at Address; empty: no more
	EventSeen      Kind = "seen"      // the restarted machine showed itself on the network, as Message says; that proves nothing
	EventReturned  Kind = "returned"  // the restarted machine asked the network for a boot again; Event.Count says how often
	EventProved    Kind = "proved"    // the host answered with its own key, or did what Options.Proof asks for
	EventFailed    Kind = "failed"    // Event.Phase and Event.Message say where and why
	EventCancelled Kind = "cancelled" // by the operator
	EventRehearsed Kind = "rehearsed" // a dry run came to its end; the permit is spent
	EventAddress   Kind = "address"   // the machine was seen at another address
	EventNote      Kind = "note"      // worth telling, changes nothing
	EventChanged   Kind = "changed"   // by the operator, without a decision to erase
	EventRestored  Kind = "restored"  // the host was forgotten, and the operator took it back
	EventRevealed  Kind = "revealed"  // escrowed passphrases were handed out, encrypted; Message says to whom
)

// Event is everything that can happen to a host. Which of the fields after
// Message count depends on the Kind.
type Event struct {
	Host    string    `json:"host"`
	Number  uint64    `json:"number"` // per host, from 1
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	State   State     `json:"state"` // after the event
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
	Port     int       `json:"port,omitempty"`  // where it proved itself; 0: 22
	Count    int       `json:"count,omitempty"` // of returns since the restart
	// Stranger means that anybody on the network can have caused it.
	Stranger bool      `json:"stranger,omitempty"`
	Boot     *Boot     `json:"-"`
	Expected *Expected `json:"-"`
	Enroll   *Host     `json:"-"`
	Change   *Change   `json:"-"`
	// Takes are Disks as they are compared with what was confirmed; of Burned.
	Takes []Taken `json:"-"`
	// Error is the host's from now on; of Cancelled.
	Error string `json:"-"`
	// Confirmed is what the operator agreed to now; of Retried.
	Confirmed *Confirmed `json:"-"`

	unrecorded bool // it changes the host, and is not in its log
}

// Work is what a machine was sent.
type Work struct {
	Bytes int64         `json:"bytes"`
	Over  string        `json:"over"`           // http, tftp, ssh
	Took  time.Duration `json:"took,omitempty"` // ns; left out where it is a phase that took it
}
