package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
)

const (
	// groupsAtOnce is the number of transactions of a Group that are open at once:
	// while one commits, others are filled. Measured on two cores: 4 is a third
	// faster than 2, and 6 no faster than 4.
	groupsAtOnce = 4
	// endTimeout bounds the end of a transaction, and the undoing of one message:
	// neither is any message's own, whose context may have ended.
	endTimeout = 30 * time.Second
)

// Group is an inbox that handles several messages in one transaction, each behind a
// savepoint, so that they share one commit. It is for short handlers that do little
// more than to write to the database: the messages of a transaction are handled one
// after another, and the locks of each are held until all of them are done. Make it
// with [Store.Group].
//
// A message that fails is undone alone. When the transaction as a whole fails, each
// of its messages is handled again, in a transaction of its own, so that what fails
// is known: fn may run twice for one call of Once. fn must not end the transaction
// that it gets.
type Group struct {
	store   *Store
	most    int
	leaders chan struct{} // a token for each transaction that is open

	mu      sync.Mutex
	waiting []*member
}

// Group returns an inbox that puts up to most messages into one transaction, those
// that are there at the moment: it waits for none, and has four transactions open at
// once. So it pays with a worker whose Config.Concurrency is some tens. most less
// than 2 means no grouping.
func (s *Store) Group(most int) *Group {
	return &Group{store: s, most: max(1, most), leaders: make(chan struct{}, groupsAtOnce)}
}

// Transient is that of the store.
func (g *Group) Transient(err error) bool { return g.store.Transient(err) }

// PurgeInbox is that of the store.
func (g *Group) PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error) {
	return g.store.PurgeInbox(ctx, age, limit)
}

// member is one call of Once that may be in another call's transaction.
type member struct {
	consumer, id string
	fn           func(ctx context.Context, tx pgx.Tx) error
	turn         chan *shared // gets the transaction when it is this one's turn
}

// shared is one transaction. One goroutine at a time has it.
type shared struct {
	tx      pgx.Tx
	members int
	emitted bool          // by a message that was handled
	broken  bool          // nothing more can be done in it
	back    chan struct{} // the member whose turn it was is done with it
	ended   chan struct{} // closed when it has been committed, or not
	err     error         // why not; set before ended is closed
}

// Once is that of [Store.Once], in a transaction that other calls may share.
func (g *Group) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx pgx.Tx) error) (first bool, err error) {
	if err := store.CheckInboxRow(consumer, id); err != nil {
		return false, err
	}
	m := &member{consumer: consumer, id: id, fn: fn, turn: make(chan *shared, 1)}
	g.mu.Lock()
	g.waiting = append(g.waiting, m)
	g.mu.Unlock()
	select {
	case x := <-m.turn:
		return g.follow(ctx, x, m)
	case g.leaders <- struct{}{}:
		if g.leave(m) {
			return g.lead(ctx, m)
		}
		<-g.leaders // another one was faster
	case <-ctx.Done():
		if g.leave(m) {
			return false, ctx.Err()
		}
	}
	return g.follow(ctx, <-m.turn, m)
}

// leave takes m off those that wait, and reports false if it has its turn already.
func (g *Group) leave(m *member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, m)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// next takes the first of those that wait, nil if there is none.
func (g *Group) next() *member {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		return nil
	}
	m := g.waiting[0]
	g.waiting = slices.Delete(g.waiting, 0, 1)
	return m
}

// lead opens a transaction, has m and those that wait use it one after another, and
// commits. Whoever leads holds a token.
func (g *Group) lead(ctx context.Context, m *member) (first bool, err error) {
	release := sync.OnceFunc(func() { <-g.leaders })
	defer release()
	tx, err := g.store.pool.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("inbox: begin: %w", postgres.Lost(err))
	}
	x := &shared{tx: tx, back: make(chan struct{}), ended: make(chan struct{})}
	func() {
		// Also when fn panics, or ends its goroutine, the others go on.
		defer func() {
			g.share(x)
			g.end(x)
			release()
		}()
		first, err = g.handle(ctx, x, m)
	}()
	if err != nil {
		return first, err
	}
	return g.result(ctx, x, m, first)
}

// share gives the transaction to those that wait, until it is full.
func (g *Group) share(x *shared) {
	for x.members < g.most && !x.broken {
		m := g.next()
		if m == nil {
			return
		}
		m.turn <- x
		<-x.back
	}
}

// end commits.
func (g *Group) end(x *shared) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	defer close(x.ended)
	if x.broken {
		x.err = errBroken
		_ = x.tx.Rollback(ctx)
		return
	}
	if err := x.tx.Commit(ctx); err != nil {
		x.err = fmt.Errorf("inbox: commit: %w", postgres.Lost(err))
		_ = x.tx.Rollback(ctx)
		return
	}
	if x.emitted {
		g.store.Wake()
	}
}

var errBroken = errors.New("inbox: the transaction was broken off by another message")

// follow handles m in the transaction of another, and waits for its end.
func (g *Group) follow(ctx context.Context, x *shared, m *member) (first bool, err error) {
	func() {
		defer func() { x.back <- struct{}{} }()
		first, err = g.handle(ctx, x, m)
	}()
	if err != nil {
		return first, err
	}
	return g.result(ctx, x, m, first)
}

// result waits for the end of the transaction in which m was handled. If that
// failed, m gets one of its own.
func (g *Group) result(ctx context.Context, x *shared, m *member, first bool) (bool, error) {
	<-x.ended
	switch {
	case x.err == nil:
		return first, nil
	case x.members == 1 && !x.broken:
		return false, x.err
	}
	return g.store.Once(ctx, m.consumer, m.id, m.fn)
}

const (
	savepointSQL = `SAVEPOINT message`
	releaseSQL   = `RELEASE SAVEPOINT message`
	undoSQL      = `ROLLBACK TO SAVEPOINT message`
)

// handle runs m in the transaction, behind a savepoint.
func (g *Group) handle(ctx context.Context, x *shared, m *member) (first bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	first, err = g.enter(ctx, x, m)
	if err != nil || !first {
		return first, err
	}
	handled := false
	defer func() {
		if !handled {
			x.undo()
		}
	}()
	e := &emits{conn: x.tx.Conn()}
	if err := m.fn(context.WithValue(ctx, emitsKey{g.store.notifier}, e), x.tx); err != nil {
		if x.tx.Conn().IsClosed() {
			err = postgres.Lost(err)
		}
		return false, err
	}
	const failed = 'E' // a statement has failed, and fn did not return its error
	if x.tx.Conn().PgConn().TxStatus() == failed {
		return false, fmt.Errorf("inbox: %w", pgx.ErrTxCommitRollback)
	}
	if err := ctx.Err(); err != nil { // as a commit by this context would have failed
		return false, fmt.Errorf("inbox: %w", err)
	}
	handled = true
	x.emitted = x.emitted || e.some.Load()
	return true, nil
}

// enter sets the savepoint and writes the inbox's row, in one round trip.
func (g *Group) enter(ctx context.Context, x *shared, m *member) (first bool, err error) {
	batch := &pgx.Batch{}
	if x.members > 0 {
		batch.Queue(releaseSQL)
	}
	batch.Queue(savepointSQL)
	batch.Queue(g.store.inboxInsert, m.consumer, m.id).Exec(func(tag pgconn.CommandTag) error {
		first = tag.RowsAffected() > 0
		return nil
	})
	x.members++
	if err := x.tx.SendBatch(ctx, batch).Close(); err != nil {
		x.undo()
		return false, fmt.Errorf("inbox: insert: %w", postgres.Lost(g.store.InboxError(ctx, err)))
	}
	return first, nil
}

// undo takes back what was done since the savepoint.
func (x *shared) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if _, err := x.tx.Exec(ctx, undoSQL); err != nil {
		x.broken = true
	}
}
