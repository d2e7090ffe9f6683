package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox/store"
)

var errOpen = errors.New("not built yet")

func (r *Core) List(context.Context, store.Query) ([]store.Stored, error) { return nil, errOpen }
func (r *Core) Redrive(context.Context, []int64) (int, error)             { return 0, errOpen }
func (r *Core) Discard(context.Context, []int64) (int, error)             { return 0, errOpen }
func (r *Core) Retry(context.Context, []store.Ref) (int, error)           { return 0, errOpen }
func (r *Core) Withdraw(context.Context, string, string) (store.Withdrawal, error) {
	return "", errOpen
}
func (r *Core) LetGo(context.Context, string) error                        { return errOpen }
func (r *Core) Pause(context.Context, store.Pause) (bool, error)           { return false, errOpen }
func (r *Core) Resume(context.Context, store.Pause) (bool, error)          { return false, errOpen }
func (r *Core) Pauses(context.Context) ([]store.Pause, error)              { return nil, nil }
func (r *Core) PurgeSent(context.Context, time.Duration, int) (int, error) { return 0, nil }
func (r *Core) CountSent(context.Context, time.Duration) (int, error)      { return 0, nil }
func (r *Core) Stats(context.Context) (store.Stats, error)                 { return store.Stats{}, errOpen }
