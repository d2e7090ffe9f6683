package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

const (
	// sequenceSQL is the last position that was ever committed.
	sequenceSQL = `SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = {message_literal}`

	standSQL = `SELECT coalesce(max(seq), 0), {now} FROM sqlite_sequence WHERE name = {message_literal}`

	readSQL = `SELECT position, id, topic, coalesce(key, ''), tenant, type, version, content_type, headers, payload, created_at,
	coalesce(deliver_at, 0), coalesce(expires_at, 0), attempts, last_error, coalesce(retry_at, 0)
FROM {message} WHERE position > ? AND route = ?`

	// otherRouteSQL lets the index of the routes be used.
	otherRouteSQL = ` AND route <> ''`

	onlySQL = ` AND tenant = ? AND key = ?`

	// The lengths keep the names of tenants and keys apart. A key that is NULL is
	// in no list.
	exceptSQL = ` AND coalesce(length(tenant) || ':' || tenant || key NOT IN (SELECT value FROM json_each(?)), true)`

	onlyTenantSQL = ` AND tenant = ?`

	exceptTenantsSQL = ` AND tenant NOT IN (SELECT value FROM json_each(?))`

	orderSQL = ` ORDER BY position LIMIT ?`
)

// stand is the last position, and the database's clock, when a read begins.
type stand struct{ last, now int64 }

// Read returns a page for each request, all in one read transaction.
func (s *Store) Read(ctx context.Context, requests ...store.ReadRequest) (pages []store.Page, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		pages, err = s.read(ctx, c, requests)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return pages, nil
}

func (s *Store) read(ctx context.Context, c runner, requests []store.ReadRequest) ([]store.Page, error) {
	pages := make([]store.Page, len(requests))
	var at stand
	if err := c.QueryRowContext(ctx, s.text.stand).Scan(&at.last, &at.now); err != nil {
		return nil, err
	}
	for i := range requests {
		if requests[i].Cursor.After > at.last {
			return nil, store.ErrCursorVoid
		}
		if err := s.readPage(ctx, c, &requests[i], at, &pages[i]); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// readPage reads behind the request's cursor. A page that does not end at a limit
// ends at the last position, so that all that do are at the same place.
func (s *Store) readPage(ctx context.Context, c runner, r *store.ReadRequest, at stand, page *store.Page) error {
	page.Cursor.After = at.last
	if r.Cursor.After == at.last || !r.Shards.Has(onlyShard) {
		return nil
	}
	text, args := s.readText(r)
	rows, err := c.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	scanner := newScanner(at.now)
	for size := 0; rows.Next(); {
		if err := scanner.scan(rows); err != nil {
			return err
		}
		scanner.row.Route = s.route
		size += scanner.row.Size()
		if len(page.Rows) > 0 && size > r.MaxBytes {
			page.More = true
			break
		}
		page.Rows = append(page.Rows, scanner.row)
		page.More = len(page.Rows) >= r.Limit
	}
	if page.More {
		page.Cursor.After = page.Rows[len(page.Rows)-1].Position
	}
	return rows.Err()
}

func (s *Store) readText(r *store.ReadRequest) (text string, args []any) {
	text, args = s.text.read, []any{r.Cursor.After, s.route}
	if s.route != "" {
		text += otherRouteSQL
	}
	if r.Only != nil {
		text += onlySQL
		args = append(args, r.Only.Tenant, r.Only.Key)
	}
	if len(r.Except) > 0 {
		text += exceptSQL
		args = append(args, keyList(r.Except))
	}
	if r.OnlyTenant != nil {
		text += onlyTenantSQL
		args = append(args, *r.OnlyTenant)
	}
	if len(r.ExceptTenants) > 0 {
		text += exceptTenantsSQL
		args = append(args, jsonList(r.ExceptTenants))
	}
	return text + orderSQL, append(args, r.Limit)
}

// scanner scans rows one after another into the same places, which costs less than
// new ones for each.
type scanner struct {
	row                              store.Row
	headers                          string
	created, deliver, expires, retry int64

	now  int64
	dest []any
}

// newScanner returns a scanner for the columns of readSQL and more behind them.
func newScanner(now int64, more ...any) *scanner {
	s := &scanner{now: now}
	r := &s.row
	s.dest = append([]any{
		&r.Position, &r.ID, &r.Topic, &r.Key, &r.Tenant, &r.Type, &r.Version, &r.ContentType,
		&s.headers, &r.Payload, &s.created, &s.deliver, &s.expires, &r.Attempts, &r.LastError, &s.retry,
	}, more...)
	return s
}

func (s *scanner) scan(rows *sql.Rows) error {
	s.row = store.Row{Shard: onlyShard}
	if err := rows.Scan(s.dest...); err != nil {
		return err
	}
	s.row.Headers = parseHeaders(s.headers)
	s.row.CreatedAt = time.UnixMicro(s.created).UTC()
	s.row.DeliverAt, s.row.ExpiresAt = moment(s.deliver), moment(s.expires)
	s.row.RetryIn, s.row.ExpiresIn = left(s.retry, s.now), left(s.expires, s.now)
	return nil
}

// left returns the time until at, 0 if there is no such time.
func left(at, now int64) time.Duration {
	if at == 0 {
		return 0
	}
	return duration(at - now)
}

// keyList is the JSON array that exceptSQL compares with.
func keyList(keys []store.Key) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = strconv.Itoa(utf8.RuneCountInString(key.Tenant)) + ":" + key.Tenant + key.Key
	}
	return jsonList(list)
}

// jsonList is a JSON array of strings or numbers, as json_each takes one apart.
func jsonList[T string | int64](list []T) string {
	text, _ := json.Marshal(list) //nolint:errchkjson // these always can be
	return string(text)
}
