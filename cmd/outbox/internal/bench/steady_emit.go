package bench

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox/internal/measure"
)

// steadyRollBackOneIn is how many transactions there are to one more that rolls back.
const steadyRollBackOneIn = 100

// steadyEmitters commit what a schedule says when it says so.
type steadyEmitters struct {
	schedule *measure.Schedule
	warmUp   time.Duration
	commit   func(ctx context.Context, t steadyTx) error
	fail     context.CancelCauseFunc

	began      time.Time
	cancel     context.CancelFunc
	running    sync.WaitGroup
	committed  atomic.Int64
	rolledBack atomic.Int64

	mu   sync.Mutex
	late []time.Duration // how late transactions began that count
	end  time.Duration   // since the start, of the last commit
}

// steadyTx is a transaction.
type steadyTx struct {
	number int  // of its message
	held   bool // it stays open for a while
	counts bool // its latency is noted

	// rollBack ends a transaction whose message must not arrive: its number is
	// beyond those that are committed.
	rollBack bool
}

func newSteadyEmitters(s *measure.Schedule, warmUp time.Duration, commit func(context.Context, steadyTx) error, fail context.CancelCauseFunc) *steadyEmitters {
	return &steadyEmitters{schedule: s, warmUp: warmUp, commit: commit, fail: fail}
}

func (e *steadyEmitters) start(ctx context.Context) {
	ctx, e.cancel = context.WithCancel(ctx)
	e.began = time.Now()
	for emitter := range e.schedule.Emitters {
		e.running.Go(func() {
			if err := e.run(ctx, emitter); err != nil && ctx.Err() == nil {
				e.fail(err)
			}
		})
	}
}

// stop ends what has not ended by itself.
func (e *steadyEmitters) stop() {
	if e.cancel != nil {
		e.cancel()
	}
	e.running.Wait()
}

// run commits what is due of one emitter, at once if it is late.
func (e *steadyEmitters) run(ctx context.Context, emitter int) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for due := range e.schedule.Of(emitter) {
		if ahead := due.At - time.Since(e.began); ahead > 0 {
			timer.Reset(ahead)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := e.one(ctx, due); err != nil {
			return err
		}
	}
	return nil
}

func (e *steadyEmitters) one(ctx context.Context, due measure.Due) error {
	counts := due.At >= e.warmUp
	late := time.Since(e.began) - due.At
	if err := e.commit(ctx, steadyTx{number: due.Number, held: due.Held, counts: counts}); err != nil {
		return err
	}
	e.committed.Add(1)
	e.note(counts, late, time.Since(e.began))
	if due.Number%steadyRollBackOneIn != 0 {
		return nil
	}
	if err := e.commit(ctx, steadyTx{number: e.schedule.Messages() + due.Number, rollBack: true}); err != nil {
		return err
	}
	e.rolledBack.Add(1)
	return nil
}

func (e *steadyEmitters) note(counts bool, late, end time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end = max(e.end, end)
	if counts {
		e.late = append(e.late, late)
	}
}

func (e *steadyEmitters) count() int { return int(e.committed.Load()) }

// finished reports whether all is committed. It is for after stop.
func (e *steadyEmitters) finished() bool { return e.count() == e.schedule.Messages() }

// achieved returns the rate that was reached, of what counts, and how late 99 of 100
// transactions began at most.
func (e *steadyEmitters) achieved() (perSecond float64, late time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.late) == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(e.late))
	took := max(e.end, e.schedule.Duration) - e.warmUp
	return float64(len(sorted)) / took.Seconds(), sorted[(len(sorted)*99+99)/100-1]
}
