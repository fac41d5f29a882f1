package model

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"provision/hosts"
	"provision/internal/store"
)

// forgotten is what a call that forgets a host leaves: a record, and no event.
const forgotten hosts.Kind = "forgotten"

// call is one for a change that was not refused.
type call struct {
	host       string
	kind       hosts.Kind
	start, end time.Time
	lost       bool   // it was not answered: it may have been done
	event      uint64 // that it is said to have become

	permits   bool // it gives a permit to erase
	brief     bool // it lasts no longer than that
	extends   bool // it may make a permit last longer
	withdraws bool // it ends one
}

// erasure is a command that takes away what is on a disk, as the machine got it.
type erasure struct {
	host  string
	at    time.Time
	since time.Time // when the connection was made on which it came
	argv  []string
}

// journal is all that was done, by everybody but the server.
type journal struct {
	mu       sync.Mutex
	calls    []call
	erasures []erasure
	refusals map[hosts.Kind]int
	secrets  []string
	leaks    []string
}

func (j *journal) called(c call) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, c)
}

func (j *journal) refused(k hosts.Kind) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refusals == nil {
		j.refusals = make(map[hosts.Kind]int)
	}
	j.refusals[k]++
}

func (j *journal) erased(e erasure) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.erasures = append(j.erasures, e)
}

// secret notes a text that must not be found anywhere.
func (j *journal) secret(text string) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.secrets = append(j.secrets, text, base64.StdEncoding.EncodeToString([]byte(text)))
	return []byte(text)
}

// said looks for secrets in what the server said.
func (j *journal) said(where string, text []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, secret := range j.secrets {
		if strings.Contains(string(text), secret) {
			j.leaks = append(j.leaks, where)
		}
	}
}

// records are what a server's store holds of a host, while no server has it open.
type records struct {
	logs map[string][][]hosts.Event // by host: of the living one, and of each that was forgotten
	gone map[string][]time.Time     // by host: when it was forgotten
}

// readStore reads a copy, so that what the next server finds is what the last one left.
func (w *world) readStore() (records, error) {
	s := records{logs: make(map[string][][]hosts.Event), gone: make(map[string][]time.Time)}
	from, err := os.Open(filepath.Join(w.server.state(), "state.db"))
	if err != nil {
		return s, err
	}
	defer from.Close()
	path := filepath.Join(w.TempDir(), "copy.db")
	to, err := os.Create(path)
	if err != nil {
		return s, err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Close()); err != nil {
		return s, err
	}
	b, err := store.OpenBolt(path)
	if err != nil {
		return s, err
	}
	defer b.Close()
	if len(b.Found.Damaged) > 0 || b.Found.Reverted {
		return s, fmt.Errorf("the store is damaged: %+v", b.Found)
	}
	for _, m := range w.machines {
		if err := s.read(b, m.name); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *records) read(b *store.Bolt, host string) error {
	alive, err := b.List(context.Background(), "event/"+host+"/", "")
	if err != nil {
		return err
	}
	aside, err := b.List(context.Background(), "aside/"+host+"/", "")
	if err != nil {
		return err
	}
	logs := make(map[string][]hosts.Event)
	for _, rec := range slices.Concat(alive, aside) {
		which, number, found := strings.Cut(rec.Key, "event/"+host+"/")
		if !found || number == "" {
			continue
		}
		var ev hosts.Event
		if err := json.Unmarshal(rec.Value, &ev); err != nil {
			return fmt.Errorf("%s: %w", rec.Key, err)
		}
		logs[which] = append(logs[which], ev)
	}
	for _, log := range logs {
		s.logs[host] = append(s.logs[host], log)
	}
	recs, err := b.List(context.Background(), "forgotten/"+host+"/", "")
	for _, rec := range recs {
		var f hosts.Forgotten
		if err := json.Unmarshal(rec.Value, &f); err != nil {
			return fmt.Errorf("%s: %w", rec.Key, err)
		}
		s.gone[host] = append(s.gone[host], f.Time)
	}
	return err
}

// events are all of a host's, in the order of time, also of its forgotten lives.
func (s *records) events(host string) []hosts.Event {
	all := slices.Concat(s.logs[host]...)
	slices.SortStableFunc(all, func(a, b hosts.Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Number, b.Number))
	})
	return all
}
