package sqlstore

import (
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

var _ store.Admin = (*Store)(nil)

// List returns messages of one state, by their places. On SQLite the ids of pending
// messages have no index: to look for some reads all of them.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Stored, error) {
	return s.backend.List(ctx, q)
}

// Redrive makes dead letters pending again where they were in the order, all of a
// parked key with one of them, and returns how many. It is one transaction.
func (s *Store) Redrive(ctx context.Context, places []int64) (int, error) {
	return s.backend.Redrive(ctx, places)
}

// Discard deletes dead letters and returns how many.
func (s *Store) Discard(ctx context.Context, places []int64) (int, error) {
	return s.backend.Discard(ctx, places)
}

// Retry makes pending messages due that wait or are blocked, and returns how many.
func (s *Store) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	return s.backend.Retry(ctx, refs)
}

// Withdraw takes one step towards deleting the messages of an id that were not sent
// yet. After [store.Asked] it is to be called again; in the end, LetGo.
func (s *Store) Withdraw(ctx context.Context, id, who string) (store.Withdrawal, error) {
	return s.backend.Withdraw(ctx, id, who)
}

// LetGo gives up the shards that Withdraw has asked for in this name.
func (s *Store) LetGo(ctx context.Context, who string) error { return s.backend.LetGo(ctx, who) }

// Pause holds messages back until Resume, and reports whether that was new.
func (s *Store) Pause(ctx context.Context, p store.Pause) (bool, error) {
	return s.backend.Pause(ctx, p)
}

// Resume ends a pause and reports whether there was one.
func (s *Store) Resume(ctx context.Context, p store.Pause) (bool, error) {
	return s.backend.Resume(ctx, p)
}

// Pauses returns what is held back.
func (s *Store) Pauses(ctx context.Context) ([]store.Pause, error) { return s.backend.Pauses(ctx) }

// PurgeSent deletes up to limit messages from the history that were sent longer than
// age ago, by the database's clock, and returns how many. On SQLite it does so by
// 1,000 in a transaction.
func (s *Store) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	return s.backend.PurgeSent(ctx, age, limit)
}

// CountSent returns how many messages of the history were sent longer than age ago.
func (s *Store) CountSent(ctx context.Context, age time.Duration) (int, error) {
	return s.backend.CountSent(ctx, age)
}

// Stats counts, over all routes. On SQLite the oldest message is looked for among
// the first 1,000 of each route, and one that was scheduled is as old as it is due.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) { return s.backend.Stats(ctx) }
