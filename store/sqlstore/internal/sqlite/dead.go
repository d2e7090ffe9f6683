package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const (
	// chosenSQL names the dead letters at some places, and with one of a parked key
	// all of that key. Of EXISTS the planner makes a join with all of a key's rows,
	// for each place.
	chosenSQL = `WITH seed AS (
	SELECT place, route, tenant, key FROM {dead} WHERE place IN (SELECT value FROM json_each(?1))
), parked AS (
	SELECT DISTINCT route, tenant, key FROM seed WHERE key <> '' AND (
		SELECT 1 FROM {dead} d WHERE d.parked = 1 AND d.route = seed.route AND d.tenant = seed.tenant AND d.key = seed.key LIMIT 1) IS NOT NULL
), chosen AS (
	SELECT place FROM seed
	UNION ALL
	SELECT d.place FROM parked p CROSS JOIN {dead} d
	WHERE d.parked IN (0, 1) AND d.route = p.route AND d.tenant = p.tenant AND d.key = p.key
)
`

	seedBumpSQL = `UPDATE {lease} SET token = token + 1
WHERE route IN (SELECT route FROM {dead} WHERE place IN (SELECT value FROM json_each(?)))`

	countChosenSQL = chosenSQL + `SELECT count(*) FROM {dead} WHERE place IN (SELECT place FROM chosen)`

	redriveSQL = chosenSQL + `INSERT INTO {message} (position, route, {content})
SELECT position, route, {living} FROM {dead} WHERE place IN (SELECT place FROM chosen)
ON CONFLICT (position) DO NOTHING`

	// redriveAnewSQL is for those whose position was given again after a restore.
	redriveAnewSQL = chosenSQL + `INSERT INTO {message} (route, {content})
SELECT route, {living} FROM {dead} d WHERE place IN (SELECT place FROM chosen) AND NOT EXISTS (
	SELECT 1 FROM {message} m WHERE m.position = d.position AND m.id = d.id AND m.route = d.route)
ORDER BY position, place`

	redrivenSQL = chosenSQL + `DELETE FROM {dead} WHERE place IN (SELECT place FROM chosen)`

	seedKeysSQL = `SELECT DISTINCT route, tenant, key FROM {dead} WHERE place IN (SELECT value FROM json_each(?)) AND parked = 1`

	discardSQL = `DELETE FROM {dead} WHERE place IN (SELECT value FROM json_each(?))`

	keyParkedSQL = `SELECT EXISTS (SELECT 1 FROM {dead} WHERE parked = 1 AND route = ? AND tenant = ? AND key = ?)`

	retrySQL = `UPDATE {message} SET attempts = 0, last_error = '', retry_at = NULL
WHERE position = ? AND id = ? AND retry_at > {now} RETURNING route`

	bumpSQL = `UPDATE {lease} SET token = token + 1 WHERE route = ?`
)

// Redrive makes dead letters pending again where they were. The new tokens have the
// owners of the leases read from the start, and so find them.
func (s *Store) Redrive(ctx context.Context, places []int64) (n int, err error) {
	err = s.write(ctx, func(c runner) error {
		n, err = s.redrive(ctx, c, jsonList(places))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("redrive dead letters: %w", err)
	}
	return n, nil
}

func (s *Store) redrive(ctx context.Context, c runner, places string) (n int, err error) {
	exec := func(text string) (int, error) { return changed(c.ExecContext(ctx, s.names.sql(text), places)) }
	if err := c.QueryRowContext(ctx, s.names.sql(countChosenSQL), places).Scan(&n); err != nil {
		return 0, err
	}
	if _, err := exec(seedBumpSQL); err != nil {
		return 0, err
	}
	in, err := exec(redriveSQL)
	if err == nil && in < n {
		_, err = exec(redriveAnewSQL)
	}
	if err != nil {
		return 0, err
	}
	return exec(redrivenSQL)
}

// routeKey is a key of a route.
type routeKey struct {
	route string
	key   store.Key
}

// Discard deletes dead letters. A key that has none any more is parked no longer,
// which the new token tells the owner of the lease.
func (s *Store) Discard(ctx context.Context, places []int64) (n int, err error) {
	err = s.write(ctx, func(c runner) error {
		n, err = s.discard(ctx, c, jsonList(places))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("discard dead letters: %w", err)
	}
	return n, nil
}

func (s *Store) discard(ctx context.Context, c runner, places string) (int, error) {
	keys, err := collect(ctx, c, func(rows *sql.Rows, k *routeKey) error {
		return rows.Scan(&k.route, &k.key.Tenant, &k.key.Key)
	}, s.names.sql(seedKeysSQL), places)
	if err != nil {
		return 0, err
	}
	n, err := changed(c.ExecContext(ctx, s.names.sql(discardSQL), places))
	if err != nil {
		return 0, err
	}
	routes := map[string]bool{}
	for _, k := range keys {
		var parked bool
		if routes[k.route] {
			continue
		}
		if err := c.QueryRowContext(ctx, s.names.sql(keyParkedSQL), k.route, k.key.Tenant, k.key.Key).Scan(&parked); err != nil {
			return 0, err
		}
		routes[k.route] = !parked
	}
	return n, s.bump(ctx, c, routes)
}

// bump gives the leases of the routes new tokens.
func (s *Store) bump(ctx context.Context, c runner, routes map[string]bool) error {
	for route, changed := range routes {
		if !changed {
			continue
		}
		if _, err := c.ExecContext(ctx, s.names.sql(bumpSQL), route); err != nil {
			return err
		}
	}
	return nil
}

// Retry makes pending messages due that wait.
func (s *Store) Retry(ctx context.Context, refs []store.Ref) (n int, err error) {
	text := s.names.sql(retrySQL)
	err = s.write(ctx, func(c runner) error {
		n = 0
		routes := map[string]bool{}
		for _, ref := range refs {
			var route string
			err := c.QueryRowContext(ctx, text, ref.Position, ref.ID).Scan(&route)
			if errors.Is(err, sql.ErrNoRows) {
				continue
			}
			if err != nil {
				return err
			}
			routes[route] = true
			n++
		}
		return s.bump(ctx, c, routes)
	})
	if err != nil {
		return 0, fmt.Errorf("retry %d messages: %w", len(refs), err)
	}
	return n, nil
}
