package postgres

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// A read returns one row that stands for the snapshot, then the messages: both
// of one statement, so that they belong together. Most columns of the first row
// are empty.
const (
	tailHead = `WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS now, pg_current_xact_id_if_assigned() AS own)` + readHead

	// Snapshots are read from their text once, not for each row.
	pageHead = `WITH s AS MATERIALIZED (SELECT pg_current_snapshot() AS now, pg_current_xact_id_if_assigned() AS own,
	$10::text::pg_snapshot AS seen, coalesce($11::text::pg_snapshot, pg_current_snapshot()) AS epoch)` + readHead

	// A message of the reader's own transaction, if it is in one of the caller's, is
	// not committed and so not read. 9223372036854775807 stands for never.
	readHead = `
SELECT s.now::text AS snapshot, (SELECT i.id::text FROM {incarnation} i WHERE i.one) AS incarnation,
	0::bigint AS position, NULL::uuid AS id, '' AS topic, '' AS key, '' AS tenant, '' AS type, '' AS version, '' AS content_type,
	'' AS headers, NULL::bytea AS payload, now() AS created_at, 0 AS attempts, '' AS last_error, 0::bigint AS retry_in, 0::smallint AS shard,
	NULL::timestamptz AS deliver_at, NULL::timestamptz AS expires_at, 0::bigint AS expires_in
FROM s
UNION ALL (
SELECT NULL, NULL, m.position, m.id, m.topic, coalesce(m.key, ''), m.tenant, m.type, m.version, m.content_type,
	CASE WHEN m.headers = '{}' THEN '' ELSE m.headers::text END, m.payload, m.created_at, m.attempts, m.last_error,
	` + retryIn + `, m.shard,
	` + deliverAt + `, ` + expiresAt + `,
	` + expiresIn + `
FROM {message} m
WHERE m.route = {route}
  AND ($2::bigint = -1 OR ($2::bigint >> m.shard) & 1 = 1)
  AND ($3::text IS NULL OR (m.tenant = $3 AND m.key = $4))
  AND ($5::text IS NULL OR (m.tenant, coalesce(m.key, '')) NOT IN (SELECT t, k FROM unnest($5::text[], $6::text[]) AS x (t, k)))
  AND ($7::text IS NULL OR m.tenant = $7)
  AND ($8::text IS NULL OR m.tenant <> ALL ($8::text[]))
  AND m.txid IS DISTINCT FROM (SELECT s.own FROM s)
`

	// Drivers know no infinity.
	deliverAt = `CASE WHEN isfinite(m.deliver_at) THEN m.deliver_at END`
	expiresAt = `CASE WHEN isfinite(m.expires_at) THEN m.expires_at END`

	retryIn = `CASE WHEN m.retry_at IS NULL THEN 0 WHEN m.retry_at = 'infinity' THEN 9223372036854775807
		ELSE (extract(epoch FROM m.retry_at - clock_timestamp()) * 1000000)::bigint END`
	expiresIn = `CASE WHEN isfinite(m.expires_at) THEN (extract(epoch FROM m.expires_at - clock_timestamp()) * 1000000)::bigint ELSE 0 END`

	// readTailSQL returns what became visible since the last snapshot, by the
	// index on txid alone: what is older, alive or dead, is not touched. The sum
	// keeps the planner from walking the primary key instead.
	readTailSQL = tailHead + `  AND (m.txid >= $9::text::xid8 OR m.txid = ANY ($10::xid8[]))
ORDER BY m.position + 0 LIMIT $1)`

	// readPageSQL returns the next of what became visible between two snapshots,
	// the second of them its own if it has none, walking the primary key.
	readPageSQL = pageHead + `  AND m.position > $9
  AND pg_visible_in_snapshot(m.txid, (SELECT s.epoch FROM s))
  AND ($10::text IS NULL OR NOT pg_visible_in_snapshot(m.txid, (SELECT s.seen FROM s)))
ORDER BY m.position LIMIT $1)`

	// freezeSQL mends rows that come from another server, by a restored dump, with
	// transaction ids that this one has yet to give out: no row that is visible
	// can be of a transaction that has not begun, or not ended. 3 is the first
	// normal id.
	freezeSQL = `UPDATE {message} SET txid = '3'::xid8 WHERE (txid >= (SELECT pg_snapshot_xmax(pg_current_snapshot()))
	OR txid = ANY (ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())))) AND txid IS DISTINCT FROM pg_current_xact_id_if_assigned()`
)

// Read returns a page for each request; see relay.Store.
func (c *Core) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	pages := make([]store.Page, len(requests))
	err := c.startAll(ctx, requests)
	switch {
	case err != nil:
	case len(requests) == 1:
		pages[0], err = c.read(ctx, c.db.Scan, requests[0])
	default:
		err = c.db.InTx(ctx, OneSnapshot, func(q Querier) error {
			for i, r := range requests {
				var err error
				if pages[i], err = c.read(ctx, ScanIn(q), r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return pages, nil
}

// startAll prepares the table for readers that begin at the start.
func (c *Core) startAll(ctx context.Context, requests []store.ReadRequest) error {
	for _, r := range requests {
		if r.Cursor == (store.Cursor{}) {
			if err := c.db.Exec(ctx, c.freeze); err != nil {
				return err
			}
			return c.incarnate(ctx, c.db)
		}
	}
	return nil
}

func (c *Core) read(ctx context.Context, scan ScanFunc, r store.ReadRequest) (store.Page, error) {
	seen, err := openSnapshot(r.Cursor.Seen)
	if err != nil {
		return store.Page{}, err
	}
	epoch, err := openSnapshot(r.Cursor.Epoch)
	if err != nil {
		return store.Page{}, err
	}
	settings, sql, args := InIndexOrder, c.readPage, pageArgs(r, seen, epoch)
	if atTail(seen, epoch) {
		settings, sql, args = ByIndex, c.readTail, tailArgs(r, seen)
	}
	p := pageReader{request: r, route: c.names.Route, within: c.within}
	if err := scan(ctx, settings, sql, args, p.scan); err != nil {
		return store.Page{}, err
	}
	return p.page(seen, epoch)
}

// atTail tells that the reader has to do with what is newly visible only.
func atTail(seen, epoch snapshot) bool { return seen.text != "" && epoch.text == "" }

// ReadStatement returns what Read runs for a request, to have it explained.
func ReadStatement(n *Names, r store.ReadRequest) (settings Settings, sql string, args []any, err error) {
	seen, err := openSnapshot(r.Cursor.Seen)
	if err != nil {
		return "", "", nil, err
	}
	epoch, err := openSnapshot(r.Cursor.Epoch)
	if err != nil {
		return "", "", nil, err
	}
	if atTail(seen, epoch) {
		return ByIndex, n.SQL(readTailSQL), tailArgs(r, seen), nil
	}
	return InIndexOrder, n.SQL(readPageSQL), pageArgs(r, seen, epoch), nil
}

func commonArgs(r store.ReadRequest) []any {
	var tenant, key, tenants, keys, onlyTenant, exceptTenants any
	if r.Only != nil {
		tenant, key = r.Only.Tenant, r.Only.Key
	}
	if len(r.Except) > 0 {
		tenantList, keyList := make([]string, len(r.Except)), make([]string, len(r.Except))
		for i, k := range r.Except {
			tenantList[i], keyList[i] = quoteElement(k.Tenant), quoteElement(k.Key)
		}
		tenants, keys = array(tenantList), array(keyList)
	}
	if r.OnlyTenant != nil {
		onlyTenant = *r.OnlyTenant
	}
	if len(r.ExceptTenants) > 0 {
		exceptTenants = textArray(r.ExceptTenants)
	}
	return []any{int64(r.Limit), int64(r.Shards), tenant, key, tenants, keys, onlyTenant, exceptTenants} //nolint:gosec // a bit mask
}

func tailArgs(r store.ReadRequest, seen snapshot) []any {
	return append(commonArgs(r), fmt.Sprint(seen.xmax), seen.running())
}

func pageArgs(r store.ReadRequest, seen, epoch snapshot) []any {
	var seenText, epochText any
	if seen.text != "" {
		seenText = seen.text
	}
	if epoch.text != "" {
		epochText = epoch.text
	}
	return append(commonArgs(r), r.Cursor.After, seenText, epochText)
}

// pageReader collects the rows of one read.
type pageReader struct {
	request               store.ReadRequest
	route                 string
	within                bool
	snapshot, incarnation *string
	rows                  []store.Row
	bytes                 int
	cut                   bool // ended by MaxBytes
}

func (p *pageReader) scan(rows Rows) error {
	var (
		snap, incarnation *string
		id                *uuid.UUID
		timing            timing
		m                 message
	)
	dest := append([]any{&snap, &incarnation}, m.dest(&id, &timing)...)
	for rows.Next() {
		m = message{}
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if snap != nil {
			p.snapshot, p.incarnation = snap, incarnation
			continue
		}
		row := m.finish(id, &timing, p.route)
		size := row.Size()
		if p.request.MaxBytes > 0 && len(p.rows) > 0 && p.bytes+size > p.request.MaxBytes {
			p.cut = true
			break
		}
		p.bytes += size
		p.rows = append(p.rows, row)
	}
	rows.Close()
	if p.cut {
		return nil
	}
	return rows.Err()
}

// page turns what was collected into a page with the cursor behind it.
func (p *pageReader) page(seen, epoch snapshot) (store.Page, error) {
	if p.snapshot == nil {
		return store.Page{}, fmt.Errorf("the snapshot is missing from the result")
	}
	if p.incarnation == nil && p.within {
		p.incarnation = new(string)
	}
	if p.incarnation == nil || (seen.text != "" && seen.incarnation != *p.incarnation) ||
		(epoch.text != "" && epoch.incarnation != *p.incarnation) {
		return store.Page{}, store.ErrCursorVoid
	}
	now, err := parseSnapshot(*p.incarnation, *p.snapshot)
	if err != nil {
		return store.Page{}, err
	}
	if seen.xmax > now.xmax {
		return store.Page{}, store.ErrCursorVoid
	}
	page := store.Page{Rows: p.rows, Horizon: now.xmin, Next: now.xmax, More: true}
	if epoch.text == "" {
		epoch = now
	}
	if p.cut || len(p.rows) == p.request.Limit {
		last := p.rows[len(p.rows)-1].Position
		page.Cursor = store.Cursor{Seen: seen.String(), Epoch: epoch.String(), After: last}
		return page, nil
	}
	// All of the epoch is read; one that was older than this statement has left
	// what came since.
	page.Cursor = store.Cursor{Seen: epoch.String()}
	page.More = p.request.Cursor.Epoch != ""
	return page, nil
}
