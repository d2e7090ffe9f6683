package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

// linePublisher writes each message as one line of JSON. A message is confirmed
// when its line has been written.
type linePublisher struct {
	mu sync.Mutex
	w  io.Writer
}

func newLinePublisher(w io.Writer) *linePublisher { return &linePublisher{w: w} }

// line is a message as it is printed: of the payloads there is one, JSON as it is,
// other text as a string, anything else in base64.
type line struct {
	ID          string            `json:"id"`
	Topic       string            `json:"topic"`
	Key         string            `json:"key,omitempty"`
	Tenant      string            `json:"tenant,omitempty"`
	Type        string            `json:"type,omitempty"`
	Version     string            `json:"version,omitempty"`
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	CreatedAt   time.Time         `json:"created_at"`
	Payload     json.RawMessage   `json:"payload,omitempty"`
	Text        *string           `json:"payload_text,omitempty"`
	Base64      []byte            `json:"payload_base64,omitempty"`
}

// Publish writes m's line.
func (p *linePublisher) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	done(p.write(m))
}

// Close does nothing: the writer is the caller's.
func (p *linePublisher) Close() error { return nil }

func (p *linePublisher) write(m *outbox.Message) error {
	data, err := json.Marshal(lineOf(m))
	if err != nil {
		return outbox.Invalid(fmt.Errorf("encode as JSON line: %w", err))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.w.Write(append(data, '\n')); err != nil {
		return outbox.Unavailable(fmt.Errorf("write JSON line: %w", err))
	}
	return nil
}

func lineOf(m *outbox.Message) *line {
	l := &line{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Tenant: m.Tenant, Type: m.Type, Version: m.Version,
		ContentType: m.ContentType, Headers: m.Headers, CreatedAt: m.CreatedAt,
	}
	switch {
	case json.Valid(m.Payload):
		l.Payload = m.Payload
	case utf8.Valid(m.Payload):
		text := string(m.Payload)
		l.Text = &text
	default:
		l.Base64 = m.Payload
	}
	return l
}
