package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// shelf says what a state's table has for the columns of a list.
type shelf struct {
	table, place, position, attempts, lastError, retryIn, expiresIn, reason, parked, at string
}

func shelfOf(state store.State) (shelf, bool) {
	s := shelf{place: "m.place", position: "m.position", attempts: "m.attempts", lastError: "m.last_error", retryIn: "0::bigint", expiresIn: "0::bigint", reason: "''", parked: "false"}
	switch state {
	case store.Pending:
		s.table, s.place, s.retryIn, s.expiresIn, s.at = "{message}", "m.position", retryIn, expiresIn, "NULL::timestamptz"
	case store.Scheduled:
		s.table, s.position, s.attempts, s.lastError, s.at = "{scheduled}", "0::bigint", "0", "''", "NULL::timestamptz"
	case store.Dead:
		s.table, s.reason, s.parked, s.at = "{dead}", "m.reason", "m.parked", "m.died_at"
	case store.Sent:
		s.table, s.at = "{sent}", "m.sent_at"
	default:
		return shelf{}, false
	}
	return s, true
}

// columns are those of a read, and what is known beside.
func (s shelf) columns(payload string) string {
	return strings.Join([]string{
		s.position, `m.id`, `m.topic`, `coalesce(m.key, '')`, `m.tenant`, `m.type`, `m.version`, `m.content_type`,
		`CASE WHEN m.headers = '{}' THEN '' ELSE m.headers::text END`, payload, `m.created_at`, s.attempts, s.lastError, s.retryIn,
		`(coalesce(hashtext(nullif(m.key, '')), hashint8(` + s.position + `)) & 63)::smallint`,
		deliverAt, expiresAt, s.expiresIn, s.place, `m.route`, s.reason, s.parked, s.at,
	}, ", ")
}

// ListStatement returns what List runs for a query, to have it explained too.
func ListStatement(n *Names, q store.Query) (settings Settings, sql string, args []any, err error) {
	s, known := shelfOf(q.State)
	if !known {
		return "", "", nil, fmt.Errorf("state %q is none: use pending, scheduled, dead or sent", q.State)
	}
	args = []any{q.After, int64(max(q.Limit, 0))}
	where := s.place + ` > $1`
	match := func(condition string, value any) {
		args = append(args, value)
		where += ` AND ` + strings.ReplaceAll(condition, `?`, `$`+strconv.Itoa(len(args)))
	}
	settings = InIndexOrder
	if len(q.IDs) > 0 {
		settings = ByIndex
		if q.State == store.Pending {
			settings = AsPlanned // there is no index by id
		}
		match(`m.id = ANY (?::uuid[])`, array(uuids(q.IDs)))
	}
	if q.Tenant != nil {
		match(`m.tenant = ?`, *q.Tenant)
	}
	if q.Key != nil {
		match(`coalesce(m.key, '') = ?`, *q.Key)
	}
	if q.Route != nil {
		match(`m.route = ?`, *q.Route)
	}
	if q.Reason != "" {
		match(s.reason+` = ?::text`, string(q.Reason))
	}
	if q.Waiting && q.State == store.Pending {
		where += ` AND m.retry_at > clock_timestamp()`
	}
	payload := `m.payload`
	if q.NoPayload {
		payload = `NULL::bytea`
	}
	return settings, n.SQL(`SELECT ` + s.columns(payload) + ` FROM ` + s.table + ` m WHERE ` + where + ` ORDER BY ` + s.place + ` LIMIT $2`), args, nil
}

// uuids leaves out what is no UUID and so the id of no message.
func uuids(ids []string) []string {
	var valid []string
	for _, id := range ids {
		if parsed, err := uuid.Parse(id); err == nil {
			valid = append(valid, parsed.String())
		}
	}
	return valid
}

// List returns messages of one state, by Place ascending.
func (c *Core) List(ctx context.Context, q store.Query) ([]store.Stored, error) {
	settings, sql, args, err := ListStatement(c.names, q)
	var list []store.Stored
	if err == nil {
		err = c.db.Scan(ctx, settings, sql, args, func(rows Rows) error {
			list, err = scanStored(rows, q.State)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	return list, nil
}

func scanStored(rows Rows, state store.State) ([]store.Stored, error) {
	var list []store.Stored
	for rows.Next() {
		var (
			m      message
			id     *uuid.UUID
			timing timing
			route  string
			at     *time.Time
		)
		one := store.Stored{State: state}
		if err := rows.Scan(append(m.dest(&id, &timing), &one.Place, &route, &one.Reason, &one.Parked, &at)...); err != nil {
			return nil, err
		}
		one.Row = m.finish(id, &timing)
		one.Route = route
		if at != nil {
			one.At = at.UTC()
		}
		list = append(list, one)
	}
	return list, rows.Err()
}
