package relay

import (
	"context"
	"time"
)

// signal wakes the one loop that waits for it; to set it twice is to set it once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// wait waits for the signal, for ctx to end, or for d unless that is zero. The timer
// is the caller's, for it to use again.
func (s signal) wait(ctx context.Context, timer *time.Timer, d time.Duration) {
	var due <-chan time.Time
	if d > 0 {
		timer.Reset(d)
		due = timer.C
	}
	select {
	case <-ctx.Done():
	case <-s:
	case <-due:
	}
}
