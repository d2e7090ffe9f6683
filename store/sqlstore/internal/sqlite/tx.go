package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// How a transaction begins. A writer takes the lock at once: one that has read
// before it wants to write can fail with SQLITE_BUSY whatever the time-out.
const (
	beginRead  = "BEGIN DEFERRED"
	beginWrite = "BEGIN IMMEDIATE"
)

// busyPatience is how long a statement is repeated while the database is busy,
// in addition to the driver's own time-out.
const busyPatience = 15 * time.Second

// queuePatience is how long a writer waits for the others of its process.
const queuePatience = 10 * time.Second

// runner is what runs statements in a transaction: a connection on which one was
// begun, or a caller's.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
}

// whileBusy repeats do while another connection holds the lock that it needs.
func whileBusy(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(busyPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := do()
		if err == nil || !isBusy(err) {
			return err
		}
		if ctx.Err() != nil { // a driver may not notice while it waits for a lock
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// isBusy recognizes SQLITE_BUSY and SQLITE_LOCKED, by the code where the driver's
// error has one, else by SQLite's own words.
func isBusy(err error) bool {
	var coded interface {
		error
		Code() int
	}
	if errors.As(err, &coded) {
		return coded.Code()&0xff == 5 || coded.Code()&0xff == 6
	}
	return err != nil && (strings.Contains(err.Error(), "database is locked") || strings.Contains(err.Error(), "table is locked"))
}

// isReadOnly recognizes SQLITE_READONLY.
func isReadOnly(err error) bool {
	return err != nil && strings.Contains(err.Error(), "attempt to write a readonly database")
}

// queueFor waits for the writers of this process that came before, and returns
// what lets the next one in. SQLite itself has no queue: its waiters sleep and try
// again, up to 100 ms later, and one can starve. The queue is a courtesy: whoever
// waits too long, because a writer waits for a second transaction of its own, goes
// on and hears from SQLite.
func (s *Store) queueFor(ctx context.Context) (leave func(), err error) {
	timer := time.NewTimer(queuePatience)
	defer timer.Stop()
	select {
	case s.writer <- struct{}{}:
		return func() { <-s.writer }, nil
	case <-timer.C:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// write runs fn in a transaction that has the write lock from its start, again
// when the database was busy.
func (s *Store) write(ctx context.Context, fn func(c runner) error) error {
	leave, err := s.queueFor(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.inTx(ctx, beginWrite, fn)
}

// snapshot runs fn, which only reads, in a transaction.
func (s *Store) snapshot(ctx context.Context, fn func(c runner) error) error {
	return s.inTx(ctx, beginRead, fn)
}

// inTx runs fn in a transaction on a connection of its own. It begins by a
// statement, since a driver's Begin does what the user's DSN says.
func (s *Store) inTx(ctx context.Context, begin string, fn func(c runner) error) error {
	return whileBusy(ctx, func() error {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		return txOn(ctx, conn, begin, fn)
	})
}

func txOn(ctx context.Context, conn *sql.Conn, begin string, fn func(c runner) error) (err error) {
	if _, err := conn.ExecContext(ctx, begin); err != nil {
		return err
	}
	committed := false
	defer func() {
		if !committed {
			err = errors.Join(err, rollBack(ctx, conn))
		}
	}()
	if err := fn(conn); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}
	committed = true
	return nil
}

// rollBack ends the transaction also when ctx has ended. A connection on which
// that fails is thrown away, lest its next user be inside the transaction.
func rollBack(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	if err == nil || strings.Contains(err.Error(), "no transaction is active") {
		return nil // some errors end the transaction by themselves
	}
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	return fmt.Errorf("roll back: %w", err)
}

// lockWriterSQL changes nothing, but makes its transaction the one that writes.
const lockWriterSQL = `DELETE FROM {lease} WHERE false`

// InTx runs fn in a transaction of the caller's type, which has the write lock
// from its start, also when the DSN does not say so.
func (s *Store) InTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	leave, err := s.queueFor(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.prepareEmit(ctx)
	tx, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.Wake()
	return nil
}

func (s *Store) begin(ctx context.Context) (tx *sql.Tx, err error) {
	err = whileBusy(ctx, func() error {
		if tx, err = s.db.BeginTx(ctx, nil); err != nil {
			return err
		}
		if err = s.exec(ctx, tx, &s.text.lockWriter); err != nil {
			_ = tx.Rollback()
		}
		return err
	})
	return tx, err
}
