package postgres

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/outbox-go/outbox"
)

const insertColumns = `INSERT INTO {message} (id, topic, key, tenant, type, version, content_type, headers, payload, created_at) `

// InsertOne inserts a message whose columns are the parameters.
const InsertOne = insertColumns +
	`VALUES ($1::uuid, $2, nullif($3, ''), $4, $5, $6, $7, $8::jsonb, $9, $10)`

// InsertMany inserts messages whose columns are arrays, in their order.
const InsertMany = insertColumns +
	`SELECT u.id, u.topic, nullif(u.key, ''), u.tenant, u.type, u.version, u.content_type, u.headers::jsonb, u.payload, u.created_at
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::timestamptz[])
		WITH ORDINALITY AS u (id, topic, key, tenant, type, version, content_type, headers, payload, created_at, place)
	ORDER BY u.place`

// Headers returns the headers of m as JSON.
func Headers(m *outbox.Message) (string, error) {
	if len(m.Headers) == 0 {
		return "{}", nil
	}
	text, err := json.Marshal(m.Headers)
	return string(text), err
}

// Payload returns the payload, which the column does not let be NULL.
func Payload(m *outbox.Message) []byte {
	if m.Payload == nil {
		return []byte{}
	}
	return m.Payload
}

// ArrayArgs returns the parameters of [InsertMany] as array literals, for drivers
// that know no arrays.
func ArrayArgs(msgs []outbox.Message) ([]any, error) {
	const columns = 10
	lists := make([][]string, columns)
	for c := range lists {
		lists[c] = make([]string, len(msgs))
	}
	for i := range msgs {
		m := &msgs[i]
		headers, err := Headers(m)
		if err != nil {
			return nil, err
		}
		for c, value := range [columns]string{
			m.ID, m.Topic, m.Key, m.Tenant, m.Type, m.Version, m.ContentType, headers,
			`\x` + hex.EncodeToString(m.Payload), m.CreatedAt.Format(time.RFC3339Nano),
		} {
			lists[c][i] = quoteElement(value)
		}
	}
	args := make([]any, columns)
	for c := range lists {
		args[c] = array(lists[c])
	}
	return args, nil
}
