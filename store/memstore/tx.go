package memstore

import (
	"context"
	"errors"
	"maps"
	"time"
)

// ErrTxDone is returned by a transaction that was committed or rolled back
// before.
var ErrTxDone = errors.New("memstore: the transaction has ended")

// Tx is a transaction on a [Store]. Beside messages it writes values under
// keys, as the business data of tests and examples. It is for one goroutine at a
// time; any number of transactions can be open.
type Tx struct {
	store     *Store
	rows      []*row
	scheduled []*stored
	values    map[string]string
	inbox     *inboxKey // the message that it handles, if any
	drain     *drain    // what it did by [Store.Within]; nil for nothing
	done      bool
}

// Begin opens a transaction. It ends by [Tx.Commit] or [Tx.Rollback], not with
// ctx.
func (s *Store) Begin(ctx context.Context) (*Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &Tx{store: s}, nil
}

// Put writes value under key. Of concurrent transactions that write one key, the
// last to commit wins.
func (tx *Tx) Put(key, value string) error {
	if tx.done {
		return ErrTxDone
	}
	if tx.values == nil {
		tx.values = make(map[string]string)
	}
	tx.values[key] = value
	return nil
}

// Get returns the value under key as the transaction sees it: its own, else the
// one committed last.
func (tx *Tx) Get(key string) (string, bool) {
	if value, ok := tx.values[key]; ok {
		return value, true
	}
	return tx.store.Get(key)
}

// Commit makes the transaction's messages and values visible, all at once, and
// wakes the listeners if there are messages.
func (tx *Tx) Commit() error {
	if tx.done {
		return ErrTxDone
	}
	tx.done = true
	s := tx.store
	s.mu.Lock()
	s.commit(tx.rows)
	s.schedule(tx.scheduled)
	if tx.drain != nil {
		tx.drain.commit(s.data)
	}
	maps.Copy(s.values, tx.values)
	if tx.inbox != nil {
		s.inbox.rows = append(s.inbox.rows, inboxRow{*tx.inbox, time.Now()})
		s.inbox.done[*tx.inbox] = struct{}{}
	}
	s.mu.Unlock()
	if len(tx.rows)+len(tx.scheduled) > 0 {
		s.Wake()
	}
	return nil
}

// Rollback forgets what the transaction wrote.
func (tx *Tx) Rollback() error {
	if tx.done {
		return ErrTxDone
	}
	tx.done = true
	if tx.drain != nil {
		tx.store.mu.Lock()
		defer tx.store.mu.Unlock()
		tx.drain.rollback()
	}
	return nil
}

// InTx runs fn in a transaction, which it commits when fn returns nil and ctx
// has not ended, and rolls back otherwise, also when fn panics.
func (s *Store) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	tx, err := s.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // says no more than that the commit was reached
	if err := fn(tx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return tx.Commit()
}
