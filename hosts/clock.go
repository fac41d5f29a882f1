package hosts

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"provision/internal/store"
)

// clockKey is the store key of the latest time that a server has seen on this store.
const clockKey = "clock"

// clockFloor is earlier than any time at which this program can run. A clock that shows an earlier time has not been
// set.
var clockFloor = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// clockSlack is how far the machine's clock may lag behind the latest time seen when the server starts. Time
// synchronization often sets clocks back by so little.
const clockSlack = 2 * time.Minute

// Clock returns times that never go back, not even across restarts of the server. So what has expired stays expired,
// whatever happens to the machine's own clock. It is safe for concurrent use.
type Clock struct {
	wall func() time.Time

	mu   sync.Mutex
	told time.Time // the latest time returned
	at   time.Time // reading of wall when told was updated
}

// NewClock continues from the time at which the last server on the store stopped. The time in a stale store is ignored:
// all permits of such a store are withdrawn, so nothing in it can expire.
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

// Behind reports whether the machine's clock lags so far behind the latest time seen that it cannot be right. It
// returns both times.
func (c *Clock) Behind() (now, latest time.Time, behind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now = c.wall().Round(0)
	return now, c.told, now.Add(clockSlack).Before(c.told)
}

// Now returns the machine's time. If the machine's clock was set back, Now continues from the latest time by the
// monotonic clock.
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

// saveClock stores the current time for the next NewClock.
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
