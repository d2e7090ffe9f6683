package main

import (
	"context"
	"fmt"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
)

// promoteChunk is how many due messages are made pending at once.
const promoteChunk = 1000

// runOnce sends what is due, and says how many messages that were.
func (a *app) runOnce(ctx context.Context, l *config.Loaded, f *fleet, limit int) error {
	var total relay.Result
	for _, s := range f.stations {
		result, err := once(ctx, l, s, limit)
		total.Sent += result.Sent
		total.Failed += result.Failed
		total.Dead += result.Dead
		if err != nil {
			return wire.DatabaseError("relay", l.Database, err)
		}
	}
	f.logger.Info("relay ran once", "sent", total.Sent, "failed", total.Failed, "dead", total.Dead)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case total.Failed > 0:
		return fmt.Errorf("%d messages were not sent: `outbox messages list --waiting` and `outbox dead list` show what the broker said", total.Failed)
	}
	return nil
}

func once(ctx context.Context, l *config.Loaded, s *station, limit int) (relay.Result, error) {
	if err := s.store.Check(ctx); err != nil {
		return relay.Result{}, err
	}
	for moved := promoteChunk; moved == promoteChunk; {
		p, err := s.store.Promote(ctx, promoteChunk)
		if err != nil {
			return relay.Result{}, err
		}
		moved = p.Moved
	}
	c := &relay.OnceConfig{
		Name: l.Relay.Name, Limit: limit, MaxAttempts: l.Relay.MaxAttempts, Policies: l.Relay.Policies, Keep: l.Relay.Keep > 0,
	}
	return relay.RunOnce(ctx, s.store.View(s.way.route), transformed(relay.Wait(s.publisher), l.Relay.Transform), c)
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
