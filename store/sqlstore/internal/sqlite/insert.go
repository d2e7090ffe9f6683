package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/outbox-go/outbox"
)

const (
	insertSQL = `INSERT INTO {message} (id, topic, key, tenant, type, version, content_type, headers, payload, created_at) VALUES `
	rowSQL    = `(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	columns   = 10

	// chunkRows is the number of rows in one statement. There is no round trip to
	// save, and the driver binds thousands of parameters more slowly than few:
	// measured, 100 rows in a statement cost half of what 1,000 do.
	chunkRows = 100
)

// Insert writes msgs in tx, all or none.
func (s *Store) Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	if len(msgs) <= chunkRows {
		return s.insertChunk(ctx, tx, msgs)
	}
	if _, err := tx.ExecContext(ctx, "SAVEPOINT outbox_insert"); err != nil {
		return err
	}
	for rest := msgs; len(rest) > 0; rest = rest[min(chunkRows, len(rest)):] {
		if err := s.insertChunk(ctx, tx, rest[:min(chunkRows, len(rest))]); err != nil {
			// Nothing of the call stays, as with a single statement.
			_, undoErr := tx.ExecContext(context.WithoutCancel(ctx), "ROLLBACK TO outbox_insert; RELEASE outbox_insert")
			if undoErr != nil {
				return fmt.Errorf("%w (and to undo the part before it: %w)", err, undoErr)
			}
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "RELEASE outbox_insert")
	return err
}

func (s *Store) insertChunk(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	args := make([]any, 0, len(msgs)*columns)
	for i := range msgs {
		m := &msgs[i]
		headers, err := formatHeaders(m.Headers)
		if err != nil {
			return err
		}
		var key any // NULL where there is none
		if m.Key != "" {
			key = m.Key
		}
		payload := m.Payload
		if payload == nil {
			payload = []byte{} // the column is NOT NULL
		}
		args = append(args, m.ID, m.Topic, key, m.Tenant, m.Type, m.Version, m.ContentType, headers, payload, m.CreatedAt.UnixMicro())
	}
	_, err := tx.ExecContext(ctx, s.text.insert+rowSQL+strings.Repeat(", "+rowSQL, len(msgs)-1), args...)
	if err == nil {
		s.note(ctx, tx)
	}
	return err
}

func formatHeaders(headers map[string]string) (string, error) {
	if len(headers) == 0 {
		return "{}", nil
	}
	text, err := json.Marshal(headers)
	return string(text), err
}

// parseHeaders reads a JSON object. A value that is not a string, which only a
// plain INSERT can have written, becomes its JSON text.
func parseHeaders(text string) map[string]string {
	if text == "{}" {
		return nil
	}
	headers := map[string]string{}
	if json.Unmarshal([]byte(text), &headers) == nil {
		return headers
	}
	var raw map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &raw) != nil {
		return nil
	}
	headers = make(map[string]string, len(raw))
	for name, value := range raw {
		var s string
		if json.Unmarshal(value, &s) != nil {
			s = string(value)
		}
		headers[name] = s
	}
	return headers
}
