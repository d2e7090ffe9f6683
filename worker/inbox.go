package worker

import (
	"context"
	"time"
)

// Inbox makes the effects of a message in a database happen once: it remembers,
// in that database, which messages were handled. The stores pgxstore, sqlstore and
// memstore are inboxes. All methods are safe for concurrent use.
type Inbox[Tx any] interface {
	// Once runs fn in a transaction of its own, together with the writing of a
	// row for consumer and id, and commits. It reports false, without having run
	// fn, when that row is there already; a transaction that is about to write
	// the same row is waited for. When fn or the commit fails, neither the row
	// nor what fn wrote remains, unless it was the answer to the commit that was
	// lost. What fn emits with its context wakes the relay after the commit.
	//
	// consumer has up to 200 bytes and id up to 255, both valid UTF-8 without
	// zero bytes.
	Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx Tx) error) (first bool, err error)

	// Transient reports whether err, which fn or Once returned, is one of the
	// database that passes: a serialization failure, a deadlock, a lock or a
	// connection that could not be had, a server that restarts.
	Transient(err error) bool

	// PurgeInbox deletes up to limit rows that were written longer than age ago,
	// by the database's clock, and returns how many there were.
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)
}
