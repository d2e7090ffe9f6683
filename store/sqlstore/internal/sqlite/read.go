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

	readSQL = `SELECT position, id, topic, coalesce(key, ''), tenant, type, version, content_type, headers, payload, created_at,
	attempts, last_error, coalesce(retry_at - {now}, 0)
FROM {message} WHERE position > ?`

	onlySQL = ` AND tenant = ? AND key = ?`

	// The lengths keep the names of tenants and keys apart. A key that is NULL is
	// in no list.
	exceptSQL = ` AND coalesce(length(tenant) || ':' || tenant || key NOT IN (SELECT value FROM json_each(?)), true)`

	orderSQL = ` ORDER BY position LIMIT ?`
)

// Read returns a page for each request, all in one read transaction.
func (s *Store) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	var pages []store.Page
	err := s.snapshot(ctx, func(c *sql.Conn) error {
		pages = make([]store.Page, len(requests))
		var last int64
		if err := c.QueryRowContext(ctx, s.text.sequence).Scan(&last); err != nil {
			return err
		}
		for i := range requests {
			if requests[i].Cursor.After > last {
				return store.ErrCursorVoid
			}
			if err := s.readPage(ctx, c, &requests[i], last, &pages[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return pages, nil
}

// readPage reads behind the request's cursor. A page that does not end at a limit
// ends at last, so that all that do are at the same place.
func (s *Store) readPage(ctx context.Context, c *sql.Conn, r *store.ReadRequest, last int64, page *store.Page) error {
	page.Cursor.After = last
	if r.Cursor.After == last || !r.Shards.Has(onlyShard) {
		return nil
	}
	text, args := s.text.read, []any{r.Cursor.After}
	if r.Only != nil {
		text += onlySQL
		args = append(args, r.Only.Tenant, r.Only.Key)
	}
	if len(r.Except) > 0 {
		text += exceptSQL
		args = append(args, keyList(r.Except))
	}
	rows, err := c.QueryContext(ctx, text+orderSQL, append(args, r.Limit)...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for size := 0; rows.Next(); {
		var row store.Row
		if err := scanRow(rows, &row); err != nil {
			return err
		}
		size += row.Size()
		if len(page.Rows) > 0 && size > r.MaxBytes {
			page.More = true
			break
		}
		page.Rows = append(page.Rows, row)
		page.More = len(page.Rows) >= r.Limit
	}
	if page.More {
		page.Cursor.After = page.Rows[len(page.Rows)-1].Position
	}
	return rows.Err()
}

func scanRow(rows *sql.Rows, row *store.Row) error {
	var headers string
	var created, retryIn int64
	err := rows.Scan(&row.Position, &row.ID, &row.Topic, &row.Key, &row.Tenant, &row.Type, &row.Version, &row.ContentType,
		&headers, &row.Payload, &created, &row.Attempts, &row.LastError, &retryIn)
	row.Shard = onlyShard
	row.Headers = parseHeaders(headers)
	row.CreatedAt = time.UnixMicro(created).UTC()
	row.RetryIn = time.Duration(retryIn) * time.Microsecond
	return err
}

// keyList is the JSON array that exceptSQL compares with.
func keyList(keys []store.Key) string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = strconv.Itoa(utf8.RuneCountInString(key.Tenant)) + ":" + key.Tenant + key.Key
	}
	text, _ := json.Marshal(list) //nolint:errchkjson // strings always can be
	return string(text)
}
