package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/enroll"
)

// status is how the machine's host stands.
func (m *machine) status(ctx context.Context) (s api.Status, err error) {
	data, err := m.server.request(ctx, http.MethodGet, "/v1/hosts/"+m.name, nil)
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	return s, err
}

// log is what the server's log of the host says, for people.
func (m *machine) log(ctx context.Context) string {
	data, err := m.server.request(ctx, http.MethodGet, "/v1/hosts/"+m.name+"/events", nil)
	var events []hosts.Event
	if err = errors.Join(err, json.Unmarshal(data, &events)); err != nil {
		return err.Error()
	}
	return story(events, nil, nil)
}

// settled tells whether nothing is to come any more.
func settled(s api.Status) bool {
	return s.State == hosts.StateInstalled || s.State == hosts.StateRehearsed || s.State == hosts.StateFailed && s.Error != ""
}

// operator is one of several who know nothing of each other.
type operator struct {
	*world
	rand *rand.Rand
}

// operate asks for so many things, one after the other.
func (w *world) operate(ctx context.Context, number uint64, steps int) {
	o := operator{w, w.rand(number)}
	for range steps {
		m := o.machines[o.rand.IntN(len(o.machines))]
		if o.rand.IntN(3) > 0 {
			select {
			case <-o.pulses.next(m.name):
			case <-time.After(2 * time.Second):
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-o.server.answers():
		case <-ctx.Done():
			return
		}
		o.step(ctx, m)
		o.steps.add()
	}
}

// weighed are what an operator may do, and how often.
var weighed = []struct {
	what  string
	times int
}{
	{"enroll", 8}, {"brief", 1}, {"reinstall", 3}, {"shown", 2}, {"dry run", 2}, {"outdated", 1}, {"cancel", 3},
	{"forget", 1}, {"retry", 4}, {"restore", 1}, {"set", 1}, {"get", 1}, {"plan", 1}, {"events", 1}, {"host-key", 1},
	{"list", 1},
}

func (o operator) choose() string {
	sum := 0
	for _, c := range weighed {
		sum += c.times
	}
	n := o.rand.IntN(sum)
	for _, c := range weighed {
		if n -= c.times; n < 0 {
			return c.what
		}
	}
	panic("not reached")
}

// passphrase is one that is not in anything else.
func (o operator) passphrase() []byte {
	return o.journal.secret(fmt.Sprintf("passphrase-%016x%016x", o.rand.Uint64(), o.rand.Uint64()))
}

func (o operator) request(m *machine) enroll.Request {
	return enroll.Request{
		Name:     m.name,
		MACs:     []string{m.mac.String()},
		Permit:   time.Hour,
		DiskKeys: map[string][]byte{keyPath: o.passphrase()},
	}
}

// brief is how long some permits last.
const brief = 2 * time.Second

// step is one thing.
func (o operator) step(ctx context.Context, m *machine) {
	path := "/v1/hosts/" + m.name
	r := o.request(m)
	permit := call{host: m.name, kind: hosts.EventEnrolled, permits: true}
	switch what := o.choose(); what {
	case "enroll":
		o.change(ctx, permit, http.MethodPost, "/v1/hosts", r)
	case "brief":
		r.Permit, permit.brief = brief, true
		o.change(ctx, permit, http.MethodPost, "/v1/hosts", r)
	case "reinstall":
		o.change(ctx, permit, http.MethodPost, path+"/reinstall", r)
	case "shown":
		if r.Digest = o.shown(ctx, path+"/reinstall", r); r.Digest != "" {
			o.change(ctx, permit, http.MethodPost, path+"/reinstall", r)
		}
	case "dry run": // it ends what was permitted before
		r.DryRun = true
		o.change(ctx, call{host: m.name, kind: hosts.EventEnrolled, withdraws: true}, http.MethodPost, "/v1/hosts", r)
	case "outdated":
		r.Digest, permit.permits = "0123456789abcdef0123456789abcdef", false
		if o.change(ctx, permit, http.MethodPost, "/v1/hosts", r) {
			o.Errorf("a plan that nobody was shown was confirmed for %s", m.name)
		}
	case "cancel":
		o.cancel(ctx, m)
	case "forget":
		o.forget(ctx, m)
	case "retry":
		retry := call{host: m.name, kind: hosts.EventRetried, extends: true}
		o.change(ctx, retry, http.MethodPost, path+"/retry", enroll.RetryRequest{})
	case "restore":
		o.change(ctx, call{host: m.name, kind: hosts.EventRestored}, http.MethodPost, path+"/restore", api.RestoreRequest{})
	case "set":
		params := enroll.SetRequest{Choices: hosts.Choices{KernelParams: []string{fmt.Sprintf("quiet=%d", o.rand.IntN(1e9))}}}
		o.change(ctx, call{host: m.name, kind: hosts.EventChanged}, http.MethodPatch, path, params)
	case "host-key":
		o.ask(ctx, http.MethodPost, path+"/host-key")
	case "list":
		o.ask(ctx, http.MethodGet, "/v1/hosts")
	case "get":
		o.ask(ctx, http.MethodGet, path)
	default:
		o.ask(ctx, http.MethodGet, path+"/"+what)
	}
}

func (o operator) cancel(ctx context.Context, m *machine) {
	c := call{host: m.name, kind: hosts.EventCancelled, withdraws: true}
	o.change(ctx, c, http.MethodPost, "/v1/hosts/"+m.name+"/cancel", nil)
}

func (o operator) forget(ctx context.Context, m *machine) {
	c := call{host: m.name, kind: forgotten, withdraws: true}
	o.change(ctx, c, http.MethodDelete, "/v1/hosts/"+m.name, nil)
}

// ask asks for what changes nothing.
func (o operator) ask(ctx context.Context, method, path string) {
	_, err := o.server.request(ctx, method, path, nil)
	o.judge(method+" "+path, err)
}

// judge looks at an error: a refusal is a sentence.
func (o operator) judge(what string, err error) {
	var no refusal
	if errors.As(err, &no) && (no.status >= 500 || len(no.words) < 10) {
		o.Errorf("%s: %v", what, no)
	}
}

// shown is the digest of the plan of a request, if there is one.
func (o operator) shown(ctx context.Context, path string, r enroll.Request) string {
	r.PlanOnly = true
	data, err := o.server.request(ctx, http.MethodPost, path, r)
	o.judge("plan "+path, err)
	var p struct {
		Digest string `json:"digest"`
	}
	if err != nil || json.Unmarshal(data, &p) != nil {
		return ""
	}
	return p.Digest
}

// change asks for a change, and notes what was answered; it reports whether it was acknowledged.
func (o operator) change(ctx context.Context, c call, method, path string, body any) bool {
	c.start = time.Now()
	data, err := o.server.request(ctx, method, path, body)
	c.end = time.Now()
	var no refusal
	switch {
	case errors.As(err, &no):
		o.judge(method+" "+path, err)
		o.journal.refused(c.kind)
		return false
	case err != nil:
		c.lost = true
	case c.kind != forgotten:
		var answer struct {
			Event   uint64    `json:"event"`
			Changed *[]string `json:"changed"`
		}
		if err := json.Unmarshal(data, &answer); err != nil || answer.Event == 0 {
			o.Errorf("%s %s answered %s: %v", method, path, data, err)
		}
		if answer.Changed != nil && len(*answer.Changed) == 0 {
			return true
		}
		c.event = answer.Event
	}
	o.journal.called(c)
	return !c.lost
}
