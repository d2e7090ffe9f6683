package postgres

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// message is a row of the message table as it is scanned, less what timing has.
type message struct {
	store.Row
	headers string
	shard   int16
}

// timing are the columns that tell when, as they come.
type timing struct {
	retryIn, expiresIn   *int64 // microseconds
	deliverAt, expiresAt *time.Time
}

// duration returns microseconds as a duration, [store.Never] for what is longer than
// can be said; of blocked messages statements return the greatest number.
func duration(micros int64) time.Duration {
	const most = int64(store.Never / time.Microsecond)
	if micros > most {
		return store.Never
	}
	return time.Duration(max(micros, -most)) * time.Microsecond
}

// dest returns where the columns of a read go.
func (m *message) dest(id **uuid.UUID, t *timing) []any {
	return []any{
		&m.Position, id, &m.Topic, &m.Key, &m.Tenant, &m.Type, &m.Version, &m.ContentType, &m.headers, &m.Payload,
		&m.CreatedAt, &m.Attempts, &m.LastError, &t.retryIn, &m.shard, &t.deliverAt, &t.expiresAt, &t.expiresIn,
	}
}

// finish returns the row that was scanned.
func (m *message) finish(id *uuid.UUID, t *timing) store.Row {
	row := m.Row
	if id != nil {
		row.ID = id.String()
	}
	row.CreatedAt = row.CreatedAt.UTC()
	row.Shard = uint8(m.shard) //nolint:gosec // the column's values are 0 to 63
	if t.retryIn != nil {
		row.RetryIn = duration(*t.retryIn)
	}
	if t.deliverAt != nil {
		row.DeliverAt = t.deliverAt.UTC()
	}
	if t.expiresAt != nil {
		row.ExpiresAt = t.expiresAt.UTC()
	}
	if t.expiresAt != nil && t.expiresIn != nil {
		row.ExpiresIn = duration(*t.expiresIn)
	}
	if m.headers != "" && m.headers != "{}" {
		row.Headers = parseHeaders(m.headers)
	}
	return row
}

// parseHeaders reads a JSON object; a value that is not a string, which only a
// plain INSERT can have brought, stays as its JSON text.
func parseHeaders(text string) map[string]string {
	headers := map[string]string{}
	if json.Unmarshal([]byte(text), &headers) == nil {
		return headers
	}
	var raw map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &raw) != nil {
		return nil
	}
	for name, value := range raw {
		var s string
		if json.Unmarshal(value, &s) != nil {
			s = strings.Trim(string(value), " ")
		}
		headers[name] = s
	}
	return headers
}
