package main

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
)

// report is what the program prints.
type report struct {
	System string `json:"system"`
	Work   string `json:"work"`
	work.Result

	Versions       map[string]string `json:"versions"` // by module
	Settings       *work.Settings    `json:"settings"`
	SystemSettings map[string]string `json:"system_settings,omitempty"`
}

// loop makes a run of a bare loop.
func loop(publish func(context.Context, *work.Settings) (time.Duration, int, error), module string) func(context.Context, *work.Settings, bool) (*report, error) {
	return func(ctx context.Context, s *work.Settings, _ bool) (*report, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, errors.New("--timeout is over"))
		defer cancel()
		before := measure.UsageOf(0).CPU
		took, arrived, err := publish(ctx, s)
		if err != nil {
			return nil, errors.Join(err, context.Cause(ctx))
		}
		return &report{
			Result: work.Result{
				Verdict: measure.Verdict{
					Committed: s.Messages, Delivered: arrived, Lost: max(0, s.Messages-arrived), Phantom: max(0, arrived-s.Messages),
					MessagesPerSecond: float64(arrived) / took.Seconds(),
				},
				CPUSeconds: (measure.UsageOf(0).CPU - before).Seconds(),
			},
			Versions: versions([]string{module}),
		}, nil
	}
}

// versions tells those of modules, and of Go.
func versions(modules []string) map[string]string {
	found := map[string]string{"go": runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains(modules, m.Path) {
				found[m.Path] = m.Version
			}
		}
	}
	return found
}
