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

// InsertTimed is [InsertMany] with three columns more: routes, when to be sent and
// when no longer. Messages that are to be sent later go to the scheduled ones.
const InsertTimed = `WITH u AS (
	SELECT u.id, u.topic, nullif(u.key, '') AS key, u.tenant, u.type, u.version, u.content_type, u.headers::jsonb, u.payload, u.created_at,
		u.route, u.deliver_at, u.expires_at, u.place
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[], $10::timestamptz[],
			$11::text[], $12::timestamptz[], $13::timestamptz[])
		WITH ORDINALITY AS u (id, topic, key, tenant, type, version, content_type, headers, payload, created_at, route, deliver_at, expires_at, place)
), later AS (
	INSERT INTO {scheduled} (` + carried + `)
	SELECT ` + carried + ` FROM u WHERE deliver_at IS NOT NULL ORDER BY place
)
INSERT INTO {message} (` + carried + `)
SELECT ` + carried + ` FROM u WHERE deliver_at IS NULL ORDER BY place`

// Timed reports whether msgs need [InsertTimed].
func Timed(msgs []outbox.Message) bool {
	for i := range msgs {
		if m := &msgs[i]; m.Route != "" || !m.DeliverAt.IsZero() || !m.ExpiresAt.IsZero() {
			return true
		}
	}
	return false
}

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

// ArrayArgs returns the parameters of [InsertMany], or of [InsertTimed] if timed, as
// array literals, for drivers that know no arrays.
func ArrayArgs(msgs []outbox.Message, timed bool) ([]any, error) {
	const most = 13
	columns := most
	if !timed {
		columns = 10
	}
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
		for c, value := range [most]string{
			quoteElement(m.ID), quoteElement(m.Topic), quoteElement(m.Key), quoteElement(m.Tenant), quoteElement(m.Type),
			quoteElement(m.Version), quoteElement(m.ContentType), quoteElement(headers),
			quoteElement(`\x` + hex.EncodeToString(m.Payload)), m.CreatedAt.Format(time.RFC3339Nano),
			quoteElement(m.Route), timeElement(m.DeliverAt), timeElement(m.ExpiresAt),
		} {
			if c < columns {
				lists[c][i] = value
			}
		}
	}
	args := make([]any, columns)
	for c := range lists {
		args[c] = array(lists[c])
	}
	return args, nil
}

// timeElement writes a time as an element of an array's literal.
func timeElement(t time.Time) string {
	if t.IsZero() {
		return "NULL"
	}
	return t.Format(time.RFC3339Nano)
}
