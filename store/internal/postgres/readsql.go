package postgres

import (
	"strconv"
	"strings"

	"github.com/outbox-go/outbox/store"
)

// A read returns a row that stands for the snapshot, and then the messages: both of one
// statement, so that they belong together. The first row has the shard headShard, the
// snapshot as its topic and the incarnation as its id.
const (
	headShard = -1

	// What is seldom there is NULL, which costs nothing to send.
	readRowsSQL = `
SELECT 0::bigint, (SELECT i.id FROM {incarnation} i WHERE i.one), s.now::text, '', '', '', '', '', '{}'::jsonb, NULL::bytea, now(),
	0, '', NULL::bigint, (-1)::smallint, NULL::timestamptz, NULL::timestamptz, NULL::bigint
FROM s
UNION ALL (
SELECT m.position, m.id, m.topic, coalesce(m.key, ''), m.tenant, m.type, m.version, m.content_type, m.headers, m.payload, m.created_at,
	m.attempts, m.last_error, CASE WHEN m.retry_at IS NOT NULL THEN ` + retryIn + ` END, m.shard,
	` + deliverAt + `, ` + expiresAt + `,
	CASE WHEN m.expires_at IS NOT NULL THEN ` + expiresIn + ` END
FROM {message} m
WHERE m.route = {route}`

	// Drivers know no infinity.
	deliverAt = `CASE WHEN isfinite(m.deliver_at) THEN m.deliver_at END`
	expiresAt = `CASE WHEN isfinite(m.expires_at) THEN m.expires_at END`

	// 9223372036854775807 stands for never.
	retryIn = `CASE WHEN m.retry_at IS NULL THEN 0 WHEN m.retry_at = 'infinity' THEN 9223372036854775807
		ELSE (extract(epoch FROM m.retry_at - clock_timestamp()) * 1000000)::bigint END`
	expiresIn = `CASE WHEN isfinite(m.expires_at) THEN (extract(epoch FROM m.expires_at - clock_timestamp()) * 1000000)::bigint ELSE 0 END`
)

// readSQL makes the statements of reads, which have the conditions that a request
// needs, and no others: each is evaluated for each row.
type readSQL struct {
	rows   string
	within bool
}

func newReadSQL(n *Names, within bool) readSQL { return readSQL{n.SQL(readRowsSQL), within} }

// statement returns what a request runs, without a limit of bytes.
func (s *readSQL) statement(r store.ReadRequest, seen, epoch snapshot) (settings Settings, sql string, args []any) {
	q := &query{}
	if atTail(seen, epoch) {
		s.tail(q, r, seen)
		return ByIndex, q.sql.String(), q.args
	}
	s.page(q, r, seen, epoch)
	return InIndexOrder, q.sql.String(), q.args
}

// atTail tells that the reader has to do with what is newly visible only.
func atTail(seen, epoch snapshot) bool { return seen.text != "" && epoch.text == "" }

// tail reads what became visible since the last snapshot, by the index on txid alone:
// what is older, alive or dead, is not touched. The sum keeps the planner from walking
// the primary key instead.
func (s *readSQL) tail(q *query, r store.ReadRequest, seen snapshot) {
	q.add(`WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS now)`, s.rows)
	s.conditions(q, r)
	q.add("\n  AND (m.txid >= ", q.arg(strconv.FormatUint(seen.xmax, 10)), `::text::xid8 OR m.txid = ANY (`, q.arg(seen.running()), `::xid8[]))
ORDER BY m.position + 0 LIMIT `, q.arg(int64(r.Limit)), `)`)
}

// page reads the next of what became visible between two snapshots, the second of them
// its own if it has none, walking the primary key. Snapshots are read from their text
// once, not for each row.
func (s *readSQL) page(q *query, r store.ReadRequest, seen, epoch snapshot) {
	q.add(`WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS now`)
	if seen.text != "" {
		q.add(`, `, q.arg(seen.text), `::text::pg_snapshot AS seen`)
	}
	if epoch.text != "" {
		q.add(`, `, q.arg(epoch.text), `::text::pg_snapshot AS epoch)`)
	} else {
		q.add(`, pg_current_snapshot() AS epoch)`)
	}
	q.add(s.rows)
	s.conditions(q, r)
	q.add("\n  AND m.position > ", q.arg(r.Cursor.After), `::bigint
  AND pg_visible_in_snapshot(m.txid, (SELECT s.epoch FROM s))`)
	if seen.text != "" {
		q.add("\n  AND NOT pg_visible_in_snapshot(m.txid, (SELECT s.seen FROM s))")
	}
	q.add("\nORDER BY m.position LIMIT ", q.arg(int64(r.Limit)), `)`)
}

// conditions are those that a request makes besides its cursor.
func (s *readSQL) conditions(q *query, r store.ReadRequest) {
	if r.Shards != store.FirstShards(Shards) {
		q.add("\n  AND (", q.arg(int64(r.Shards)), `::bigint >> m.shard) & 1 = 1`) //nolint:gosec // a bit mask
	}
	if r.Only != nil {
		q.add("\n  AND m.tenant = ", q.arg(r.Only.Tenant), ` AND m.key = `, q.arg(r.Only.Key))
	}
	if len(r.Except) > 0 {
		tenants, keys := make([]string, len(r.Except)), make([]string, len(r.Except))
		for i, k := range r.Except {
			tenants[i], keys[i] = k.Tenant, k.Key
		}
		q.add("\n  AND (m.tenant, coalesce(m.key, '')) NOT IN (SELECT t, k FROM unnest(", q.arg(textArray(tenants)), `::text[], `,
			q.arg(textArray(keys)), `::text[]) AS x (t, k))`)
	}
	if r.OnlyTenant != nil {
		q.add("\n  AND m.tenant = ", q.arg(*r.OnlyTenant))
	}
	if len(r.ExceptTenants) > 0 {
		q.add("\n  AND m.tenant <> ALL (", q.arg(textArray(r.ExceptTenants)), `::text[])`)
	}
	if s.within {
		// What the caller's transaction emitted is not committed, and so not read.
		q.add("\n  AND m.txid IS DISTINCT FROM (SELECT pg_current_xact_id_if_assigned())")
	}
}

// query is a statement that is put together.
type query struct {
	sql  strings.Builder
	args []any
}

func (q *query) add(parts ...string) {
	for _, part := range parts {
		q.sql.WriteString(part)
	}
}

// arg adds an argument and returns its name.
func (q *query) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}
