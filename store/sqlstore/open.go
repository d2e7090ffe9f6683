package sqlstore

import (
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

func (s *Store) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	return s.backend.Parked(ctx, shards)
}

func (s *Store) Promote(ctx context.Context, limit int) (store.Promotion, error) {
	return s.backend.Promote(ctx, limit)
}

func (s *Store) Dispatch(ctx context.Context, d []store.Dispatch) error {
	return s.backend.Dispatch(ctx, d)
}

func (s *Store) List(ctx context.Context, q store.Query) ([]store.Stored, error) {
	return s.backend.List(ctx, q)
}

func (s *Store) Redrive(ctx context.Context, places []int64) (int, error) {
	return s.backend.Redrive(ctx, places)
}

func (s *Store) Discard(ctx context.Context, places []int64) (int, error) {
	return s.backend.Discard(ctx, places)
}

func (s *Store) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	return s.backend.Retry(ctx, refs)
}

func (s *Store) Withdraw(ctx context.Context, id, who string) (store.Withdrawal, error) {
	return s.backend.Withdraw(ctx, id, who)
}

func (s *Store) LetGo(ctx context.Context, who string) error { return s.backend.LetGo(ctx, who) }

func (s *Store) Pause(ctx context.Context, p store.Pause) (bool, error) {
	return s.backend.Pause(ctx, p)
}

func (s *Store) Resume(ctx context.Context, p store.Pause) (bool, error) {
	return s.backend.Resume(ctx, p)
}

func (s *Store) Pauses(ctx context.Context) ([]store.Pause, error) { return s.backend.Pauses(ctx) }

func (s *Store) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	return s.backend.PurgeSent(ctx, age, limit)
}

func (s *Store) CountSent(ctx context.Context, age time.Duration) (int, error) {
	return s.backend.CountSent(ctx, age)
}

func (s *Store) Stats(ctx context.Context) (store.Stats, error) { return s.backend.Stats(ctx) }
