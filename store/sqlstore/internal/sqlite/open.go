package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox/store"
)

var errOpen = errors.New("not built yet")

func (r *Store) List(context.Context, store.Query) ([]store.Stored, error) { return nil, errOpen }
func (r *Store) Redrive(context.Context, []int64) (int, error)             { return 0, errOpen }
func (r *Store) Discard(context.Context, []int64) (int, error)             { return 0, errOpen }
func (r *Store) Retry(context.Context, []store.Ref) (int, error)           { return 0, errOpen }
func (r *Store) Withdraw(context.Context, string, string) (store.Withdrawal, error) {
	return "", errOpen
}
func (r *Store) LetGo(context.Context, string) error                        { return errOpen }
func (r *Store) Pause(context.Context, store.Pause) (bool, error)           { return false, errOpen }
func (r *Store) Resume(context.Context, store.Pause) (bool, error)          { return false, errOpen }
func (r *Store) Pauses(context.Context) ([]store.Pause, error)              { return nil, nil }
func (r *Store) PurgeSent(context.Context, time.Duration, int) (int, error) { return 0, nil }
func (r *Store) CountSent(context.Context, time.Duration) (int, error)      { return 0, nil }
func (r *Store) Stats(context.Context) (store.Stats, error)                 { return store.Stats{}, errOpen }
