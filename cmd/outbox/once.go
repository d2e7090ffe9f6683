package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
)

const (
	// promoteChunk is how many due messages are made pending at once.
	promoteChunk = 1000

	// purgeChunk is how many old messages are deleted at once.
	purgeChunk = 1000
)

// runOnce sends what is due, and says how many messages that were. An outbox that
// fails does not hold up the others.
func (a *app) runOnce(ctx context.Context, l *config.Loaded, f *fleet, limit int) error {
	var total relay.Result
	var errs []error
	for _, s := range f.stations {
		if ctx.Err() != nil {
			break
		}
		result, err := once(ctx, l, s, limit)
		total.Sent += result.Sent
		total.Failed += result.Failed
		total.Dead += result.Dead
		if err != nil && len(f.stations) > 1 {
			err = fmt.Errorf("%s: %w", s.name(), err)
		}
		errs = append(errs, err)
	}
	f.logger.Info("relay ran once", "sent", total.Sent, "failed", total.Failed, "dead", total.Dead)
	err := errors.Join(errs...)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	return err
}

// once sends what is due in one outbox, and deletes what is too old in its history.
func once(ctx context.Context, l *config.Loaded, s *station, limit int) (relay.Result, error) {
	whole := timedStore{s.store}
	if err := due(ctx, whole); err != nil {
		return relay.Result{}, wire.DatabaseError("relay", l.Database, err)
	}
	c := &relay.OnceConfig{
		Name: l.Relay.Name, Limit: limit, MaxAttempts: l.Relay.MaxAttempts, Policies: l.Relay.Policies, Keep: l.Relay.Keep > 0,
		RefusedBackoff: l.Relay.RefusedBackoff, MaxRefusedBackoff: l.Relay.MaxRefusedBackoff,
	}
	var last error
	publish := transformed(relay.Wait(s.publisher), l.Relay.Transform)
	result, err := relay.RunOnce(ctx, timedStore{s.store.View(s.way.route)}, func(ctx context.Context, m *outbox.Message) error {
		err := publish(ctx, m)
		if err != nil {
			last = err
		}
		return err
	}, c)
	if err == nil && l.Relay.Keep > 0 && l.Relay.Keep < relay.Forever {
		_, err = purgeAll(ctx, whole.PurgeSent, l.Relay.Keep, purgeChunk)
	}
	return result, errors.Join(wire.DatabaseError("relay", l.Database, err), unsent(result.Failed, last))
}

// due makes messages pending whose time has come.
func due(ctx context.Context, s timedStore) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	for {
		p, err := s.Promote(ctx, promoteChunk)
		if err != nil || p.Moved < promoteChunk {
			return err
		}
	}
}

// unsent is the error of n messages that were not sent, the last one for that reason.
func unsent(n int, last error) error {
	if n == 0 {
		return nil
	}
	why := ""
	if last != nil {
		why = fmt.Sprintf(", the last one for %q", last)
	}
	return fmt.Errorf("%s not sent%s: see `outbox messages list --waiting` and `outbox dead list`", count(n, "message was", "messages were"), why)
}

// transformed sends a copy of each message that transform has changed.
func transformed(publish outbox.PublishFunc, transform func(context.Context, *outbox.Message) error) outbox.PublishFunc {
	if transform == nil {
		return publish
	}
	return func(ctx context.Context, m *outbox.Message) error {
		changed := *m
		if err := transform(ctx, &changed); err != nil {
			return err
		}
		return publish(ctx, &changed)
	}
}
