package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Values of Record.PayloadEncoding.
const (
	EncodingJSON   = "json"   // the payload is the value, without insignificant white space
	EncodingText   = "text"   // the payload is the string's UTF-8
	EncodingBase64 = "base64" // the payload is the string decoded (RFC 4648, with padding)
)

// Record is a message as it is exported, for machines: JSON with all its members
// in this order. Times are RFC 3339 in UTC, or null.
type Record struct {
	State       store.State       `json:"state"`
	Place       int64             `json:"place"`
	ID          string            `json:"id"`
	Route       string            `json:"route"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key"`
	Tenant      string            `json:"tenant"`
	Type        string            `json:"type"`
	Version     string            `json:"version"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	CreatedAt   *time.Time        `json:"created_at"`
	DeliverAt   *time.Time        `json:"deliver_at"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	Position    int64             `json:"position"`
	Attempts    int               `json:"attempts"`
	LastError   string            `json:"last_error"`

	// RetryIn is the seconds until the next attempt of a pending message; null if it
	// is due, or blocked.
	RetryIn *float64     `json:"retry_in_seconds"`
	Blocked bool         `json:"blocked"`
	Reason  store.Reason `json:"reason"`
	Parked  bool         `json:"parked"`
	At      *time.Time   `json:"at"` // when it became a dead letter, or was sent

	// PayloadEncoding says what Payload is; both are left out of lists.
	PayloadEncoding string `json:"payload_encoding,omitempty"`
	Payload         any    `json:"payload,omitempty"`
}

// NewRecord returns what is to be said of a message, without its payload.
func NewRecord(s *store.Stored) Record {
	r := Record{
		State: s.State, Place: s.Place, ID: s.ID, Route: s.Route, Topic: s.Topic, Key: s.Key, Tenant: s.Tenant,
		Type: s.Type, Version: s.Version, ContentType: s.ContentType, Headers: s.Headers,
		CreatedAt: inUTC(s.CreatedAt), DeliverAt: inUTC(s.DeliverAt), ExpiresAt: inUTC(s.ExpiresAt),
		Position: s.Position, Attempts: s.Attempts, LastError: s.LastError,
		Blocked: s.RetryIn == store.Never, Reason: s.Reason, Parked: s.Parked, At: inUTC(s.At),
	}
	if r.Headers == nil {
		r.Headers = map[string]string{}
	}
	if s.RetryIn > 0 && !r.Blocked {
		seconds := s.RetryIn.Seconds()
		r.RetryIn = &seconds
	}
	return r
}

func inUTC(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// WithPayload returns r with the payload of the message: the value itself if it
// says that it is JSON and is, else a string.
func (r Record) WithPayload(payload []byte) Record {
	switch {
	case !utf8.Valid(payload):
		r.PayloadEncoding, r.Payload = EncodingBase64, payload
		if payload == nil {
			r.Payload = []byte{}
		}
	case isJSON(r.ContentType) && json.Valid(payload):
		r.PayloadEncoding, r.Payload = EncodingJSON, json.RawMessage(payload)
	default:
		r.PayloadEncoding, r.Payload = EncodingText, string(payload)
	}
	return r
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}

// Export writes a line with a [Record] for each message in a state that the filter
// lets through, payload included unless the filter leaves it out, and returns how
// many.
func (a *Admin) Export(ctx context.Context, w io.Writer, state store.State, f Filter) (int, error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	n := 0
	for row, err := range a.List(ctx, state, f) {
		if err != nil {
			return n, err
		}
		r := NewRecord(&row)
		if !f.NoPayload {
			r = r.WithPayload(row.Payload)
		}
		if err := enc.Encode(r); err != nil {
			return n, fmt.Errorf("admin: export: %w", err)
		}
		n++
	}
	return n, nil
}
