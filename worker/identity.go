package worker

import (
	"encoding/json"
	"mime"
	"strings"

	"github.com/outbox-go/outbox"
)

// IDFromHeaders returns a function for Config.MessageID that takes the id from the
// first of the headers that a message has, in any case of letters: "cap-msg-id"
// of CAP, "dop-msg-id" of django-outbox-pattern or "message-id", for example.
func IDFromHeaders(names ...string) func(*outbox.Message) string {
	return func(m *outbox.Message) string {
		for _, name := range names {
			if id := header(m, name); id != "" {
				return id
			}
		}
		return ""
	}
}

// IDFromCloudEvent is a function for Config.MessageID that returns the source and
// the id, which are unique together, of a CloudEvent 1.0, joined by a space: of one
// in binary mode, in the headers of the HTTP and Kafka ("ce-id", "ce_id") or the
// AMQP binding ("cloudEvents:id", "cloudEvents_id"), or of one in structured mode.
// What comes by a webhook.Receiver has that id by itself, unless it is a UUID of a
// webhook.Publisher's.
func IDFromCloudEvent(m *outbox.Message) string {
	for _, prefix := range []string{"ce-", "ce_", "cloudEvents:", "cloudEvents_"} {
		if id := header(m, prefix+"id"); id != "" {
			return eventID(header(m, prefix+"source"), id)
		}
	}
	media, _, err := mime.ParseMediaType(m.ContentType)
	if err != nil || media != "application/cloudevents+json" {
		return ""
	}
	var event struct{ Source, ID string }
	if json.Unmarshal(m.Payload, &event) != nil || event.ID == "" {
		return ""
	}
	return eventID(event.Source, event.ID)
}

func eventID(source, id string) string {
	if source == "" {
		return id
	}
	return source + " " + id
}

func header(m *outbox.Message, name string) string {
	if value := m.Headers[name]; value != "" {
		return value
	}
	for other, value := range m.Headers {
		if value != "" && strings.EqualFold(other, name) {
			return value
		}
	}
	return ""
}
