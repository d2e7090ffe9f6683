package program

import (
	"bytes"
	"encoding/json"
	"mime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

// variables tell of a message, but for its payload.
func variables(d *worker.Delivery[[]byte]) []string {
	headers, err := json.Marshal(d.Headers)
	if err != nil || d.Headers == nil {
		headers = []byte("{}")
	}
	all := []string{
		"OUTBOX_ID=" + d.ID, "OUTBOX_TOPIC=" + d.Topic, "OUTBOX_KEY=" + d.Key, "OUTBOX_TENANT=" + d.Tenant,
		"OUTBOX_TYPE=" + d.Type, "OUTBOX_VERSION=" + d.Version, "OUTBOX_CONTENT_TYPE=" + d.ContentType,
		"OUTBOX_CREATED_AT=" + moment(d.CreatedAt), "OUTBOX_ATTEMPT=" + strconv.Itoa(d.Attempt),
		"OUTBOX_CORRELATION_ID=" + d.CorrelationID, "OUTBOX_QUEUE=" + d.Queue, "OUTBOX_REASON=" + reason(d),
		"OUTBOX_HEADERS=" + string(headers),
	}
	for i := range all {
		all[i] = strings.ReplaceAll(all[i], "\x00", "") // what other systems send may have some
	}
	return all
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// reason returns why the attempt before this one failed.
func reason(d *worker.Delivery[[]byte]) string {
	if d.Failure == nil {
		return ""
	}
	return d.Failure.Reason
}

// record is a message as a line has it.
type record struct {
	ID            string            `json:"id"`
	Topic         string            `json:"topic"`
	Key           string            `json:"key,omitempty"`
	Tenant        string            `json:"tenant,omitempty"`
	Type          string            `json:"type,omitempty"`
	Version       string            `json:"version,omitempty"`
	ContentType   string            `json:"content_type,omitempty"`
	CreatedAt     string            `json:"created_at,omitempty"`
	Attempt       int               `json:"attempt"`
	CorrelationID string            `json:"correlation_id,omitempty"`
	Queue         string            `json:"queue"`
	Reason        string            `json:"reason,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	Payload       any               `json:"payload,omitempty"`
	PayloadBase64 []byte            `json:"payload_base64,omitempty"`
}

// encode returns a message as a line, under that id: its payload as JSON if it is
// that, as a string if it is text, else as base64.
func encode(id string, d *worker.Delivery[[]byte]) ([]byte, error) {
	r := record{
		ID: id, Topic: d.Topic, Key: d.Key, Tenant: d.Tenant, Type: d.Type, Version: d.Version, ContentType: d.ContentType,
		CreatedAt: moment(d.CreatedAt), Attempt: d.Attempt, CorrelationID: d.CorrelationID, Queue: d.Queue, Reason: reason(d), Headers: d.Headers,
	}
	media, _, _ := mime.ParseMediaType(d.ContentType)
	isJSON := media == "" || media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json")
	switch {
	case isJSON && utf8.Valid(d.Payload) && json.Valid(d.Payload):
		r.Payload = json.RawMessage(d.Payload)
	case utf8.Valid(d.Payload) && !bytes.ContainsRune(d.Payload, 0):
		r.Payload = string(d.Payload)
	default:
		r.PayloadBase64 = d.Payload
	}
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r) // ends with a line feed
	return line.Bytes(), err
}
