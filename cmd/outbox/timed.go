package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// callTime is how long a call to the database may take where nobody watches: a run by
// cron must end.
const callTime = 30 * time.Second

var errSlowDatabase = errors.New("the database has not answered within 30s")

// timed ends a call to the database in time, and has its error say why it was ended.
func timed[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTime, errSlowDatabase)
	defer cancel()
	answer, err := call(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return answer, err
}

func timedError(ctx context.Context, call func(context.Context) error) error {
	_, err := timed(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

// timedStore is a store of which each call ends in time.
type timedStore struct {
	store relay.Store
}

var _ relay.OnceStore = timedStore{}

func (s timedStore) Shards() int { return s.store.Shards() }

func (s timedStore) Check(ctx context.Context) error { return timedError(ctx, s.store.Check) }

func (s timedStore) Promote(ctx context.Context, limit int) (store.Promotion, error) {
	return timed(ctx, func(ctx context.Context) (store.Promotion, error) { return s.store.Promote(ctx, limit) })
}

func (s timedStore) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	return timed(ctx, func(ctx context.Context) (store.Claim, error) { return s.store.Claim(ctx, r) })
}

func (s timedStore) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return timedError(ctx, func(ctx context.Context) error { return s.store.Leave(ctx, owner, doubt) })
}

func (s timedStore) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	return timed(ctx, func(ctx context.Context) ([]store.Page, error) { return s.store.Read(ctx, requests...) })
}

func (s timedStore) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return timedError(ctx, func(ctx context.Context) error { return s.store.Settle(ctx, refs, keep) })
}

func (s timedStore) Fail(ctx context.Context, failures []store.Failure) error {
	return timedError(ctx, func(ctx context.Context) error { return s.store.Fail(ctx, failures) })
}

func (s timedStore) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	return timed(ctx, func(ctx context.Context) ([]store.Key, error) { return s.store.Parked(ctx, shards) })
}

func (s timedStore) Pauses(ctx context.Context) ([]store.Pause, error) {
	return timed(ctx, s.store.Pauses)
}

func (s timedStore) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	return timed(ctx, func(ctx context.Context) (int, error) { return s.store.PurgeSent(ctx, age, limit) })
}
