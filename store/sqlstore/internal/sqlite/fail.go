package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

// maxError is the number of bytes that are kept of a broker's error.
const maxError = 2000

const (
	leaseHeldSQL = `SELECT EXISTS (SELECT 1 FROM {lease} WHERE route = ? AND shard = ? AND token = ? AND owner IS NOT NULL)`

	failSQL = `UPDATE {message} SET attempts = ?1, last_error = ?2, retry_at = iif(?3 = {never}, {never}, {now} + ?3)
WHERE position = ?4 AND id = ?5 AND route = ?6`

	dieSQL = `INSERT INTO {dead} (position, route, {content}, attempts, last_error, reason, parked)
SELECT position, route, {content}, ?1, ?2, ?3, ?4 AND coalesce(key, '') <> ''
FROM {message} WHERE position = ?5 AND id = ?6 AND route = ?7`

	removeSQL = `DELETE FROM {message} WHERE position = ? AND id = ? AND route = ?`

	parkedSQL = `SELECT DISTINCT tenant, key FROM {dead} WHERE parked = 1 AND route = ?`
)

// Fail writes failures under their leases. It has the write lock while it looks
// at the leases, so none of them can change hands before the commit.
func (s *Store) Fail(ctx context.Context, failures []store.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	err := s.write(ctx, func(c runner) error { return s.fail(ctx, c, failures) })
	if err != nil {
		return fmt.Errorf("record %d failures: %w", len(failures), err)
	}
	return nil
}

func (s *Store) fail(ctx context.Context, c runner, failures []store.Failure) error {
	if err := s.checkLeases(ctx, c, failures); err != nil {
		return err
	}
	stmts := preparer{c: c}
	defer stmts.close()
	for i := range failures {
		f := &failures[i]
		message, ref := shorten(f.Error, maxError), []any{f.Ref.Position, f.Ref.ID, s.route}
		var err error
		if f.Dead == "" {
			err = stmts.exec(ctx, s.text.fail, append([]any{f.Attempts, message, retryMicros(f)}, ref...)...)
		} else {
			err = stmts.exec(ctx, s.text.die, append([]any{f.Attempts, message, string(f.Dead), f.Park}, ref...)...)
			if err == nil {
				err = stmts.exec(ctx, s.text.remove, ref...)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func retryMicros(f *store.Failure) int64 {
	if f.RetryIn == store.Never {
		return int64(store.Never) // its microseconds are a time that comes
	}
	return f.RetryIn.Microseconds()
}

func (s *Store) checkLeases(ctx context.Context, c runner, failures []store.Failure) error {
	seen := map[store.Lease]bool{}
	for i := range failures {
		lease := failures[i].Lease
		if seen[lease] {
			continue
		}
		seen[lease] = true
		var held bool
		if err := c.QueryRowContext(ctx, s.text.leaseHeld, s.route, lease.Shard, lease.Token).Scan(&held); err != nil {
			return err
		}
		if !held {
			return store.ErrLeaseLost
		}
	}
	return nil
}

// Parked returns the keys of the route that have a dead letter which holds them
// back.
func (s *Store) Parked(ctx context.Context, shards store.ShardSet) (keys []store.Key, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		keys, err = s.parked(ctx, c, shards)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read parked keys: %w", err)
	}
	return keys, nil
}

func (s *Store) parked(ctx context.Context, c runner, shards store.ShardSet) ([]store.Key, error) {
	if !shards.Has(onlyShard) {
		return nil, nil
	}
	return collect(ctx, c, func(rows *sql.Rows, key *store.Key) error {
		return rows.Scan(&key.Tenant, &key.Key)
	}, s.names.sql(parkedSQL), s.route)
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, c runner, scan func(rows *sql.Rows, to *T) error, text string, args ...any) ([]T, error) {
	rows, err := c.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var list []T
	for rows.Next() {
		var one T
		if err := scan(rows, &one); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, rows.Err()
}

// preparer prepares each text once.
type preparer struct {
	c     runner
	stmts map[string]*sql.Stmt
}

func (p *preparer) exec(ctx context.Context, text string, args ...any) error {
	stmt := p.stmts[text]
	if stmt == nil {
		var err error
		if stmt, err = p.c.PrepareContext(ctx, text); err != nil {
			return err
		}
		if p.stmts == nil {
			p.stmts = map[string]*sql.Stmt{}
		}
		p.stmts[text] = stmt
	}
	_, err := stmt.ExecContext(ctx, args...)
	return err
}

func (p *preparer) close() {
	for _, stmt := range p.stmts {
		_ = stmt.Close()
	}
}

// shorten cuts text to at most n bytes, between characters.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
