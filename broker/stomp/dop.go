package stomp

import (
	"cmp"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// Headers of django-outbox-pattern (https://pypi.org/project/django-outbox-pattern/)
// and, of them, the id of CAP (https://cap.dotnetcore.xyz), which it understands.
const (
	dopID            = "dop-msg-id"
	dopDestination   = "dop-msg-destination"
	dopType          = "dop-msg-type"
	dopSentTime      = "dop-msg-sent-time"
	dopCorrelationID = "dop-correlation-id"
	capID            = "cap-msg-id"
)

// dopMessageType is the type that django-outbox-pattern gives to its messages: the
// name of its model.
const dopMessageType = "Published"

func isDOP(name string) bool {
	switch name {
	case dopID, dopDestination, dopType, dopSentTime, dopCorrelationID:
		return true
	}
	return false
}

// addDOP adds the headers that django-outbox-pattern gives to a message. Those of the
// user by these names are not sent, but for a correlation id where the message has
// no other.
func addDOP(f *stomp.Frame, m *outbox.Message, destination string) {
	f.Add(dopID, m.ID)
	f.Add(dopDestination, destination)
	f.Add(dopType, cmp.Or(m.Type, dopMessageType))
	if !m.CreatedAt.IsZero() {
		f.Add(dopSentTime, dopTime(m.CreatedAt))
	}
	f.Add(dopCorrelationID, cmp.Or(m.Headers[outbox.HeaderCorrelationID], m.Headers[dopCorrelationID], m.CorrelationID()))
}

// dopTime formats t as Django's JSON encoder does: in milliseconds, or none if it has
// no microseconds.
func dopTime(t time.Time) string {
	t = t.UTC()
	layout := "2006-01-02T15:04:05Z"
	if t.Nanosecond() >= int(time.Microsecond) {
		layout = strings.Replace(layout, "Z", ".000Z", 1)
	}
	return t.Format(layout)
}
