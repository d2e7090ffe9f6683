package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox/store"
)

// readLoop keeps the queue ahead of the publisher.
func (r *run) readLoop(ctx context.Context) {
	var pause backoff
	sweep := time.Now().Add(r.config.SweepInterval)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if r.config.SweepInterval > 0 && time.Now().After(sweep) {
			sweep = time.Now().Add(r.config.SweepInterval)
			r.queue.sweep()
		}
		reread := r.queue.reread()
		began := time.Now()
		found, err := r.readOnce(ctx)
		r.queue.noteRead(err)
		if err != nil {
			r.readFailed(ctx, err)
			pause.sleep(ctx, nil)
			continue
		}
		pause.reset()
		if found.read {
			r.noteLoad(ctx, found.rows)
		}
		if found.more {
			continue
		}
		time.Sleep(r.poll.gap(began))
		wait := r.nextRead(found)
		if reread > 0 {
			wait = min(wait, reread)
		}
		r.queue.readWake.wait(ctx, timer, wait)
	}
}

func (r *run) readFailed(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, store.ErrCursorVoid):
		r.config.Logger.Warn("the database was restarted or restored; the relay reads it from the start")
		r.queue.restartAll()
	default:
		r.config.Logger.Warn("relay could not read", "error", err)
	}
}

// found is what a read brought.
type found struct {
	read    bool // anything was asked at all
	rows    int
	more    bool
	horizon uint64
}

// readOnce reads what the queue has room for.
func (r *run) readOnce(ctx context.Context) (found, error) {
	if err := r.learnParked(ctx); err != nil {
		return found{}, err
	}
	streams, requests := r.queue.plan()
	if len(requests) == 0 {
		return found{}, nil
	}
	began := time.Now()
	var pages []store.Page
	err := r.withTimeout(ctx, func(ctx context.Context) (err error) {
		pages, err = r.store.Read(ctx, requests...)
		return err
	})
	rows := 0
	for i := range pages {
		rows += len(pages[i].Rows)
	}
	for _, hook := range r.hooks.read {
		hook.Read(rows, time.Since(began), err)
	}
	if err != nil {
		return found{}, err
	}
	_, more := r.queue.admit(streams, requests, pages)
	return found{true, rows, more, pages[0].Horizon}, nil
}

// learnParked asks for the parked keys of shards that are to be read from the start.
func (r *run) learnParked(ctx context.Context) error {
	shards, gens := r.queue.unknown()
	if shards == 0 {
		return nil
	}
	return r.withTimeout(ctx, func(ctx context.Context) error {
		keys, err := r.store.Parked(ctx, shards)
		if err != nil {
			return fmt.Errorf("parked keys: %w", err)
		}
		r.queue.know(shards, gens, keys)
		return nil
	})
}

// noteLoad turns the notifications off and on, by how many rows are read.
func (r *run) noteLoad(ctx context.Context, rows int) {
	if busy := r.poll.note(rows); busy != r.arm.off.Load() {
		r.arm.set(ctx, &r.config, !busy)
		r.poll.delay = 0
	}
}

// nextRead returns how long to wait for a wake-up before reading again.
func (r *run) nextRead(f found) time.Duration {
	switch {
	case !f.read:
		return r.config.PollInterval // no shards, or no room: a signal comes
	case r.arm.off.Load():
		return busyPoll
	case r.poll.only.Load() || !r.arm.settled(f.horizon):
		return r.poll.grow(f.rows)
	}
	return r.config.PollInterval
}

const (
	// busyPoll is how often a relay reads that has switched notifications off.
	busyPoll = time.Millisecond

	// maxGap is the longest pause between reads while there are wake-ups, and
	// freeReads how many reads of a busyWindow need none.
	maxGap    = 2 * time.Millisecond
	freeReads = 150

	// maxPoll is how far the time between reads grows while nobody notifies.
	maxPoll = 200 * time.Millisecond

	// busyWindow and busyRows say when a relay is busy: with so many rows in that
	// time it is cheaper to look each millisecond than to make every commit
	// notify. Below half of it, it is no longer.
	busyWindow = 100 * time.Millisecond
	busyRows   = 300
)

// poll decides how often to look.
type poll struct {
	config *Config
	only   atomic.Bool // the store cannot notify
	delay  time.Duration

	began time.Time
	rows  int
	busy  bool

	counted time.Time // reads is counted from then on
	reads   int
}

// gap returns how long to pause after a read that began then and is over. Where reads
// are many, what is committed meanwhile is read together: a relay that is woken by each
// commit then spends at most half of its time, and the database's, reading.
func (p *poll) gap(began time.Time) time.Duration {
	if began.Sub(p.counted) > busyWindow {
		p.counted, p.reads = began, 0
	}
	if p.reads++; p.reads <= freeReads {
		return 0
	}
	return min(time.Since(began), maxGap)
}

// note counts rows and reports whether the relay is busy.
func (p *poll) note(rows int) bool {
	now := time.Now()
	p.rows += rows
	switch elapsed := now.Sub(p.began); {
	case elapsed > 10*busyWindow:
		p.began, p.rows, p.busy = now, rows, false
	case elapsed >= busyWindow:
		perWindow := int(int64(p.rows) * int64(busyWindow) / int64(elapsed))
		p.busy = perWindow >= busyRows || p.busy && perWindow >= busyRows/2
		p.began, p.rows = now, 0
	}
	return p.busy
}

// grow doubles the delay from a millisecond while nothing is found.
func (p *poll) grow(rows int) time.Duration {
	if rows > 0 {
		p.delay = 0
	}
	p.delay = min(max(2*p.delay, time.Millisecond), maxPoll, p.config.PollInterval)
	return p.delay
}

// armer switches a store's notifications.
type armer struct {
	store Armer
	owner string
	off   atomic.Bool
	next  atomic.Uint64 // transactions before it may commit without notifying
}

// set switches and reports whether it could.
func (a *armer) set(ctx context.Context, config *Config, on bool) bool {
	if a.store == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, min(opTimeout, config.LeaseTTL))
	defer cancel()
	next, err := a.store.Arm(ctx, a.owner, on)
	if err != nil {
		if ctx.Err() == nil {
			config.Logger.Warn("relay could not switch the notifications", "on", on, "error", err)
		}
		return false
	}
	a.next.Store(next)
	a.off.Store(!on)
	return true
}

// settled tells that all transactions have ended that may not notify.
func (a *armer) settled(horizon uint64) bool {
	return a.store == nil || horizon >= a.next.Load()
}
