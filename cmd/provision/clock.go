package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

// awaitClock waits until the machine's clock is not behind the latest time that the server has seen, or until ctx ends.
// A machine without a battery for its clock starts with an arbitrary time, until it gets the right one from the
// network.
func awaitClock(ctx context.Context, clock *hosts.Clock, store string, log *slog.Logger) error {
	for {
		now, latest, behind := clock.Behind()
		if !behind || ctx.Err() != nil {
			return nil
		}
		log.Warn("waiting for this machine's clock to be set: it is behind the latest time that the server has seen",
			"clock", now.Format(time.RFC3339), "seen", latest.Format(time.RFC3339),
			"remedy", fmt.Sprintf("let it be set by NTP, or with `date -s`; if the time that was seen is wrong, "+
				"stop the server and run `provision state restore %s`, which withdraws all permits", store))
		if err := clockSet(ctx, latest); err != nil {
			return fmt.Errorf("wait for this machine's clock: %w", err)
		}
	}
}

// clockSet waits until the clock is set, reaches the time until by itself, or ctx ends. See TFD_TIMER_CANCEL_ON_SET in
// timerfd_create(2).
func clockSet(ctx context.Context, until time.Time) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return err
	}

	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()

	spec := &unix.ItimerSpec{Value: unix.NsecToTimespec(until.UnixNano())}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, spec, nil); err != nil {
		return err
	}

	stop := context.AfterFunc(ctx, func() { timer.Close() })
	defer stop()

	_, err = timer.Read(make([]byte, 8))
	switch {
	case ctx.Err() != nil, errors.Is(err, unix.ECANCELED):
		return nil
	}

	return err
}
