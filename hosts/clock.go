package hosts

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"provision/internal/store"
)

// clockKey is the record of the latest time that a server has seen on this store.
const clockKey = "clock"

// clockFloor is before any time at which this program can run: a clock before it was not set yet.
var clockFloor = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// clockSlack is how far behind the latest time seen the machine's clock may be at the start. By so little they are
// slowed or set back all the time.
const clockSlack = 2 * time.Minute

// Clock tells a time that never goes back, nor over a restart: what has expired stays so, whatever happens to the
// machine's own clock.
type Clock struct {
	wall func() time.Time

	mu   sync.Mutex
	told time.Time
	at   time.Time // of wall, when told was
}

// NewClock continues where the last server on the store was. In a store that is stale nothing will live that could
// expire: its time counts for nothing.
func NewClock(db store.Store, wall func() time.Time) (*Clock, error) {
	stored := records{db}
	c := &Clock{wall: wall, told: clockFloor, at: wall()}
	if why, err := stored.Stale(); why != "" || err != nil {
		return c, err
	}

	rec, err := stored.Get(clockKey)
	var seen time.Time
	if err == nil {
		err = seen.UnmarshalText(rec.Value)
	}

	switch {
	case errors.Is(err, ErrNotFound), errors.As(err, new(*store.Damaged)):
	case err != nil:
		return nil, fmt.Errorf("read the latest time that was seen: %w", err)
	case seen.After(c.told):
		c.told = seen
	}

	return c, nil
}

// Behind tells whether the machine's clock is so far behind the latest time seen that it cannot be right yet.
func (c *Clock) Behind() (now, latest time.Time, behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.wall().Round(0)
	return now, c.told, now.Add(clockSlack).Before(c.told)
}

// Now is the machine's time, or if that went back, the time since then by a clock that cannot be set.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.wall()
	c.told = c.told.Add(max(0, now.Sub(c.at)))
	c.at = now
	if now = now.Round(0); now.After(c.told) {
		c.told = now
	}
	return c.told
}

// saveClock stores the time, for NewClock.
func (inv *Inventory) saveClock() error {
	now, err := inv.now().UTC().MarshalText()
	if err == nil {
		err = inv.store.Commit(nil, []store.Write{store.Put(clockKey, now)})
	}
	if err != nil {
		return fmt.Errorf("save the time: %w", err)
	}
	return nil
}
