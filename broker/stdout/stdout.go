// Package stdout publishes messages as lines of JSON, to look at what an outbox
// would send. It is a publisher alone: nothing can be consumed.
package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

// bufferSize is how many bytes of lines are held back before they are written
// without a Flush.
const bufferSize = 64 << 10

var errClosed = outbox.Unavailable(errors.New("stdout: closed"))

// Publisher is an [outbox.Publisher] and an [outbox.Flusher] that writes each
// message as one line of JSON. It is safe for concurrent use; done must not call
// it.
//
// A line is an object with the members id, topic, key, tenant, type, version,
// content_type, headers and created_at (RFC 3339, UTC), without those that are
// empty, and either payload or payload_base64. payload is a payload of a JSON
// content type that is valid, as it is, or any other that is text in UTF-8, as a
// string; payload_base64 is all else.
type Publisher struct {
	w io.Writer

	mu     sync.Mutex
	buffer bytes.Buffer
	lines  []line // those in buffer
	torn   bool   // the last write ended within a line
	closed bool
}

// line is a message in the buffer.
type line struct {
	end  int // where it ends in the buffer
	done func(error)
}

// New returns a publisher that writes to w, such as os.Stdout. Lines are held
// back until Flush or Close, or until there are 64 KiB of them. w is not closed.
func New(w io.Writer) *Publisher { return &Publisher{w: w} }

// Publish adds a line for m. done gets nil when the line has been written, and
// [outbox.ErrUnavailable] when it could not be.
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := ctx.Err()
	switch {
	case p.closed:
		done(errClosed)
		return
	case err != nil:
		done(outbox.Unavailable(err))
		return
	}
	before := p.buffer.Len()
	if err := encode(&p.buffer, m); err != nil {
		p.buffer.Truncate(before)
		done(outbox.Invalid(fmt.Errorf("stdout: %w", err)))
		return
	}
	p.lines = append(p.lines, line{end: p.buffer.Len(), done: done})
	if p.buffer.Len() >= bufferSize {
		_ = p.write() // told to each done
	}
}

// Flush writes the lines held back, in one piece.
func (p *Publisher) Flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write()
}

// Close writes the lines held back and returns the error of that.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return p.write()
}

// write writes the buffer, empties it and answers for its lines. The caller
// holds mu.
func (p *Publisher) write() error {
	if len(p.lines) == 0 {
		return nil
	}
	if p.torn {
		if _, err := p.w.Write([]byte("\n")); err != nil {
			return p.answer(0, err)
		}
		p.torn = false
	}
	n, err := p.w.Write(p.buffer.Bytes())
	if err == nil && n < p.buffer.Len() {
		err = io.ErrShortWrite
	}
	return p.answer(n, err)
}

// answer tells the lines that end within the first n bytes that they are
// written, and the others err.
func (p *Publisher) answer(n int, err error) error {
	err = outbox.Unavailable(wrap(err))
	written := 0
	for _, l := range p.lines {
		if l.end <= n {
			written = l.end
			l.done(nil)
		} else {
			l.done(err)
		}
	}
	p.torn = p.torn || n > written
	p.lines = p.lines[:0]
	p.buffer.Reset()
	return err
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("stdout: write: %w", err)
}

// record is a line.
type record struct {
	ID            string            `json:"id"`
	Topic         string            `json:"topic"`
	Key           string            `json:"key,omitempty"`
	Tenant        string            `json:"tenant,omitempty"`
	Type          string            `json:"type,omitempty"`
	Version       string            `json:"version,omitempty"`
	ContentType   string            `json:"content_type,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	CreatedAt     *time.Time        `json:"created_at,omitempty"`
	Payload       any               `json:"payload,omitempty"`
	PayloadBase64 []byte            `json:"payload_base64,omitempty"`
}

func encode(w io.Writer, m *outbox.Message) error {
	r := record{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Tenant: m.Tenant, Type: m.Type, Version: m.Version,
		ContentType: m.ContentType, Headers: m.Headers,
	}
	if !m.CreatedAt.IsZero() {
		at := m.CreatedAt.UTC()
		r.CreatedAt = &at
	}
	switch {
	case isJSON(m.ContentType) && json.Valid(m.Payload):
		r.Payload = json.RawMessage(m.Payload)
	case isText(m.Payload):
		r.Payload = string(m.Payload)
	default:
		r.PayloadBase64 = m.Payload
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r) // ends with a line feed
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}

// isText reports whether payload can be read: it is UTF-8 of printable characters
// and white space.
func isText(payload []byte) bool {
	return utf8.Valid(payload) && bytes.IndexFunc(payload, func(r rune) bool {
		return !unicode.IsGraphic(r) && !unicode.IsSpace(r)
	}) < 0
}
