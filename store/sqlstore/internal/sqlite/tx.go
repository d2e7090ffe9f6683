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

// whileBusy repeats do while another connection holds the lock that it needs.
func whileBusy(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(busyPatience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := do()
		if err == nil || !isBusy(err) || time.Now().After(deadline) {
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

// inTx runs fn in a transaction on a connection of its own, again when the
// database was busy. It begins by a statement, since a driver's Begin does what
// the user's DSN says.
func (s *Store) inTx(ctx context.Context, begin string, fn func(c *sql.Conn) error) error {
	return whileBusy(ctx, func() error {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		return txOn(ctx, conn, begin, fn)
	})
}

func txOn(ctx context.Context, conn *sql.Conn, begin string, fn func(c *sql.Conn) error) (err error) {
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

// Begin opens a transaction for a caller of InTx. It has the write lock, also
// when the DSN does not say so.
func (s *Store) Begin(ctx context.Context) (*sql.Tx, error) {
	var tx *sql.Tx
	err := whileBusy(ctx, func() (err error) {
		if tx, err = s.db.BeginTx(ctx, nil); err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, s.text.lockWriter); err != nil {
			_ = tx.Rollback()
		}
		return err
	})
	return tx, err
}
