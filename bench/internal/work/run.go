package work

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox/internal/measure"
)

// Result is what a run has found.
type Result struct {
	measure.Verdict

	LatencyP50 float64   `json:"latency_p50_ms"` // from before the commit to the handler; zero in a drain
	LatencyP90 float64   `json:"latency_p90_ms"`
	LatencyP99 float64   `json:"latency_p99_ms"`
	LatencyMax float64   `json:"latency_max_ms"`
	Tenths     []float64 `json:"tenths"` // messages a second

	CPUSeconds      float64 `json:"cpu_seconds"`       // of this process while it was measured
	RelayCPUSeconds float64 `json:"relay_cpu_seconds"` // of the relay's process in its life; zero without one

	Offered  float64 `json:"offered_per_second,omitempty"`
	Achieved float64 `json:"achieved_per_second,omitempty"` // commits, until the last one
}

// run is a system at work.
type run struct {
	settings *Settings
	system   System
	load     measure.Load
	tally    *measure.Tally
}

// Run has the system do the work, in the place that the settings name.
func Run(ctx context.Context, system System, s *Settings, steady bool) (result *Result, err error) {
	place, err := OpenPlace(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, place.Remove()) }()
	if err := system.SetUp(ctx); err != nil {
		return nil, fmt.Errorf("make the tables: %w", err)
	}
	defer system.Close()
	r := &run{settings: s, system: system, load: s.Load(), tally: measure.NewTally(s.Load())}
	subscriber, err := Subscriber(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	consumer, err := measure.Consume(ctx, subscriber, s.Name, Prefetch, r.tally)
	if err != nil {
		return nil, fmt.Errorf("consume: %w", err)
	}
	defer func() { err = errors.Join(err, consumer.Stop()) }()
	if steady {
		return r.steady(ctx)
	}
	return r.drain(ctx, place)
}

// drain measures from the start of the relay until the last message has arrived.
func (r *run) drain(ctx context.Context, place *Place) (*Result, error) {
	if err := r.system.Fill(ctx, r.load); err != nil {
		return nil, fmt.Errorf("write the backlog: %w", err)
	}
	if err := place.Analyze(ctx); err != nil {
		return nil, err
	}
	before := measure.UsageOf(0).CPU
	r.tally.Start()
	relay, err := startRelay(ctx, r.system, r.settings)
	if err != nil {
		return nil, err
	}
	err = r.wait(ctx, relay)
	result := &Result{CPUSeconds: (measure.UsageOf(0).CPU - before).Seconds()}
	return r.finish(result, relay, err, r.settings.Messages)
}

// wait waits until all messages have arrived, at most for the timeout; what is not
// there by then is lost.
func (r *run) wait(ctx context.Context, relay *relay) error {
	select {
	case <-r.tally.Done():
		return nil
	case <-relay.ended:
		return errors.New("the relay has ended early") // why, says finish
	case <-time.After(r.settings.Timeout):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// quiet is how long nothing may arrive in the end: what ought not to be there arrives
// late.
const quiet = 300 * time.Millisecond

// finish stops the relay and judges what has arrived when nothing comes any more.
func (r *run) finish(result *Result, relay *relay, err error, committed int) (*Result, error) {
	stopErr := relay.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	for before := -1; before < r.tally.Deliveries(); {
		before = r.tally.Deliveries()
		Pause(quiet)
	}
	result.RelayCPUSeconds = relay.cpuSeconds()
	result.Verdict = r.tally.Verdict(committed)
	result.Tenths = r.tally.Tenths()
	latencies := r.tally.Latencies()
	ms := func(p float64) float64 { return latencies.Percentile(p).Seconds() * 1000 }
	result.LatencyP50, result.LatencyP90, result.LatencyP99, result.LatencyMax = ms(50), ms(90), ms(99), ms(100)
	return result, nil
}

// steady measures from just before each commit until the handler has the message.
func (r *run) steady(ctx context.Context) (*Result, error) {
	relay, err := startRelay(ctx, r.system, r.settings)
	if err != nil {
		return nil, err
	}
	emitters := make([]Emitter, r.settings.Emitters)
	for i := range emitters {
		if emitters[i], err = r.system.Emitter(ctx); err != nil {
			return nil, errors.Join(err, relay.stop())
		}
		defer emitters[i].Close()
	}
	before := measure.UsageOf(0).CPU
	r.tally.Start()
	began := time.Now()
	err = r.emitAll(ctx, emitters, began)
	took := time.Since(began).Seconds()
	if err == nil {
		err = r.wait(ctx, relay)
	}
	result := &Result{CPUSeconds: (measure.UsageOf(0).CPU - before).Seconds(), Offered: r.settings.Rate, Achieved: float64(r.settings.Messages) / took}
	return r.finish(result, relay, err, r.settings.Messages)
}

func (r *run) emitAll(ctx context.Context, emitters []Emitter, began time.Time) error {
	s := r.settings
	schedule := measure.Schedule{Rate: s.Rate, Duration: s.WarmUp + s.Duration, Emitters: s.Emitters, Keys: s.Keys, HoldShare: s.HoldShare}
	errs := make([]error, len(emitters))
	var all sync.WaitGroup
	for i, e := range emitters {
		all.Go(func() {
			for due := range schedule.Of(i) {
				Pause(time.Until(began.Add(due.At)))
				if errs[i] = r.emit(ctx, e, &due); errs[i] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// rollBackOneIn is how many transactions there are to one more that rolls back, whose
// message must not arrive.
const rollBackOneIn = 100

var errRollBack = errors.New("rolled back on purpose")

func (r *run) emit(ctx context.Context, e Emitter, due *measure.Due) error {
	err := e.Emit(ctx, EventOf(&r.load, due.Number), func() error {
		if due.Held {
			Pause(r.settings.Hold)
		}
		if due.At >= r.settings.WarmUp {
			r.tally.Committed(due.Number, time.Now())
		}
		return nil
	})
	if err == nil && due.Number%rollBackOneIn == 0 {
		undone := EventOf(&r.load, r.load.Messages+due.Number)
		if err = e.Emit(ctx, undone, func() error { return errRollBack }); errors.Is(err, errRollBack) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("emit message %d: %w", due.Number, err)
	}
	return nil
}
