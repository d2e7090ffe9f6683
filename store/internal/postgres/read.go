package postgres

import (
	"context"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

// freezeSQL mends rows that come from another server, by a restored dump, with
// transaction ids that this one has yet to give out: no row that is visible can be of
// a transaction that has not begun, or not ended. 3 is the first normal id.
const freezeSQL = `UPDATE {message} SET txid = '3'::xid8 WHERE (txid >= (SELECT pg_snapshot_xmax(pg_current_snapshot()))
	OR txid = ANY (ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())))) AND txid IS DISTINCT FROM pg_current_xact_id_if_assigned()`

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
	seen, epoch, err := openCursor(r.Cursor)
	if err != nil {
		return store.Page{}, err
	}
	c.sizes.bound(&r)
	settings, sql, args := c.reads.statement(r, seen, epoch)
	p := pageReader{request: r, route: c.names.Route, within: c.within, rows: c.sizes.room(r)}
	if err := scan(ctx, settings, sql, args, p.scan); err != nil {
		return store.Page{}, err
	}
	c.sizes.note(len(p.rows), p.bytes)
	return p.page(seen, epoch)
}

func openCursor(c store.Cursor) (seen, epoch snapshot, err error) {
	if seen, err = openSnapshot(c.Seen); err == nil {
		epoch, err = openSnapshot(c.Epoch)
	}
	return seen, epoch, err
}

// ReadStatement returns what Read runs for a request, to have it explained.
func ReadStatement(n *Names, r store.ReadRequest) (settings Settings, sql string, args []any, err error) {
	seen, epoch, err := openCursor(r.Cursor)
	if err != nil {
		return "", "", nil, err
	}
	reads := newReadSQL(n, false)
	settings, sql, args = reads.statement(r, seen, epoch)
	return settings, sql, args, nil
}
