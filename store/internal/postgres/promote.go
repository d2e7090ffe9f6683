package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	nextDueSQL = `SELECT CASE WHEN due IS NULL OR due = 'infinity' THEN 9223372036854775807
	WHEN due <= clock_timestamp() THEN 0
	ELSE ceil(extract(epoch FROM due - clock_timestamp()) * 1000000)::bigint END
FROM (SELECT min(deliver_at) AS due FROM {scheduled}) AS s`

	// promoteSQL waits for what somebody is withdrawing: left out, it would come behind
	// later ones of its key.
	promoteSQL = `WITH due AS (
	DELETE FROM {scheduled} WHERE place = ANY (ARRAY(
		SELECT place FROM {scheduled} WHERE deliver_at <= now() ORDER BY deliver_at, place LIMIT $1 FOR UPDATE))
	RETURNING *
), moved AS (
	INSERT INTO {message} (` + carried + `)
	SELECT ` + carried + ` FROM due ORDER BY deliver_at, place
	RETURNING 1
)
SELECT count(*) FROM moved`

	// dispatchSQL finds the rows by the primary key, as settling does.
	dispatchSQL = `WITH way AS (
	SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[]) WITH ORDINALITY AS u (position, id, route, place)
), gone AS (
	DELETE FROM {message} WHERE position = ANY ($1::bigint[])
		AND (position, id) IN (SELECT way.position, way.id FROM way)
	RETURNING *
)
INSERT INTO {message} (id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at, expires_at, route)
SELECT g.id, g.topic, g.key, g.tenant, g.type, g.version, g.content_type, g.headers, g.payload, g.created_at, g.deliver_at, g.expires_at, way.route
FROM gone g JOIN way ON way.position = g.position AND way.id = g.id
ORDER BY way.place`

	// elsewhere is how soon to ask again while another one promotes what is due, or has
	// locked it.
	elsewhere = 50 * time.Millisecond
)

// Promote makes scheduled messages pending that are due; see relay.Store. While none
// is due it is one read of an index.
func (c *Core) Promote(ctx context.Context, limit int) (p store.Promotion, err error) {
	if p.Next, err = c.nextDueIn(ctx, c.db); err == nil && p.Next <= 0 && limit > 0 {
		err = c.db.InTx(ctx, ReadWrite, func(q Querier) error {
			p = store.Promotion{}
			return c.promoteIn(ctx, q, limit, &p)
		})
	}
	if sqlState(err) == lockNotAvailable {
		return store.Promotion{Next: elsewhere}, nil
	}
	if err != nil {
		return store.Promotion{}, fmt.Errorf("promote scheduled messages: %w", err)
	}
	return p, nil
}

func (c *Core) promoteIn(ctx context.Context, q Querier, limit int, p *store.Promotion) error {
	alone, err := c.alone(ctx, q, "promote")
	if err != nil {
		return err
	}
	if alone {
		if err := q.Exec(ctx, shortLocks); err != nil {
			return err
		}
		err = ScanIn(q)(ctx, InIndexOrder, c.promote, []any{int64(limit)}, func(rows Rows) error {
			if !rows.Next() {
				return rows.Err()
			}
			return rows.Scan(&p.Moved)
		})
		if err != nil {
			return err
		}
	}
	p.Next, err = c.nextDueIn(ctx, q)
	if p.Moved == 0 {
		p.Next = max(p.Next, elsewhere)
	}
	return err
}

// alone takes the lock of a task that one at a time does, until the end of the
// transaction, if nobody has it.
func (c *Core) alone(ctx context.Context, q Querier, task string) (alone bool, err error) {
	_, err = queryRow(ctx, q, `SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))`,
		[]any{"outbox " + task + " " + c.names.Qualified("message")}, &alone)
	return alone, err
}

func (c *Core) nextDueIn(ctx context.Context, q Querier) (time.Duration, error) {
	var micros int64
	if _, err := queryRow(ctx, q, c.nextDue, nil, &micros); err != nil {
		return 0, err
	}
	return duration(micros), nil
}

// Dispatch has messages take routes; see relay.Store.
func (c *Core) Dispatch(ctx context.Context, dispatches []store.Dispatch) error {
	var positions, ids, routes []string
	for _, d := range dispatches {
		for _, route := range d.Routes {
			positions = append(positions, strconv.FormatInt(d.Ref.Position, 10))
			ids = append(ids, d.Ref.ID)
			routes = append(routes, quoteElement(route))
		}
	}
	if len(routes) == 0 {
		return nil
	}
	err := c.db.Scan(ctx, ByIndex, c.dispatch, []any{array(positions), array(ids), array(routes)}, func(rows Rows) error {
		rows.Next()
		return rows.Err()
	})
	if err != nil {
		return fmt.Errorf("dispatch %d messages: %w", len(dispatches), err)
	}
	return nil
}
