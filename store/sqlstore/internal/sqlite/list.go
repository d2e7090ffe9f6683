package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const clockSQL = `SELECT {now}`

// shelf is where the messages of a state are: the table, and the columns that not
// all states have, or an expression in the place of those that it lacks.
type shelf struct {
	table, place, position, attempts, lastError, retryAt, reason, parked, at string
}

var shelves = map[store.State]shelf{
	store.Pending:   {"message", "position", "position", "attempts", "last_error", "retry_at", "''", "0", "0"},
	store.Scheduled: {"scheduled", "place", "0", "0", "''", "0", "''", "0", "0"},
	store.Dead:      {"dead", "place", "position", "attempts", "last_error", "0", "reason", "parked", "died_at"},
	store.Sent:      {"sent", "place", "position", "attempts", "last_error", "0", "''", "0", "sent_at"},
}

// listText returns the query and its parameters.
func listText(q *store.Query, f shelf, now int64) (text string, args []any) {
	payload := "payload"
	if q.NoPayload {
		payload = "NULL"
	}
	text = `SELECT ` + f.position + `, id, topic, coalesce(key, ''), tenant, type, version, content_type, headers, ` + payload + `, created_at,
	coalesce(deliver_at, 0), coalesce(expires_at, 0), ` + f.attempts + `, ` + f.lastError + `, coalesce(` + f.retryAt + `, 0),
	route, ` + f.place + `, ` + f.reason + `, ` + f.parked + `, ` + f.at + `
FROM {` + f.table + `} WHERE ` + f.place + ` > ?`
	args = []any{q.After}
	only := func(condition string, value any) { text, args = text+" AND "+condition, append(args, value) }
	if len(q.IDs) > 0 {
		only("id IN (SELECT value FROM json_each(?))", jsonList(q.IDs))
	}
	if q.Tenant != nil {
		only("tenant = ?", *q.Tenant)
	}
	if q.Key != nil {
		only("coalesce(key, '') = ?", *q.Key)
	}
	if q.Route != nil {
		only("route = ?", *q.Route)
	}
	if q.Reason != "" {
		only(f.reason+" = ?", string(q.Reason))
	}
	if q.Waiting && q.State == store.Pending {
		only("retry_at > ?", now)
	}
	return text + " ORDER BY " + f.place + " LIMIT ?", append(args, q.Limit)
}

// List returns messages of one state, by their places.
func (s *Store) List(ctx context.Context, q store.Query) (list []store.Stored, err error) {
	f, ok := shelves[q.State]
	if !ok {
		return nil, fmt.Errorf("list messages: State %q is none: use pending, scheduled, dead or sent", q.State)
	}
	err = s.snapshot(ctx, func(c runner) error {
		var now int64
		if err := c.QueryRowContext(ctx, s.names.sql(clockSQL)).Scan(&now); err != nil {
			return err
		}
		text, args := listText(&q, f, now)
		list, err = listRows(ctx, c, q.State, now, s.names.sql(text), args)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s messages: %w", q.State, err)
	}
	return list, nil
}

func listRows(ctx context.Context, c runner, state store.State, now int64, text string, args []any) ([]store.Stored, error) {
	var m store.Stored
	var at int64
	scanner := newScanner(now, &m.Route, &m.Place, &m.Reason, &m.Parked, &at)
	return collect(ctx, c, func(rows *sql.Rows, to *store.Stored) error {
		if err := scanner.scan(rows); err != nil {
			return err
		}
		*to = store.Stored{Row: scanner.row, State: state, Place: m.Place, Reason: m.Reason, Parked: m.Parked, At: moment(at)}
		to.Route = m.Route
		if state != store.Pending {
			to.RetryIn, to.ExpiresIn = 0, 0
		}
		return nil
	}, text, args...)
}
