// Package measure is what every benchmark of this project has in common, whatever it
// measures: the messages, the judge of what arrives, the consumer, and the
// distribution of latencies. It knows no database and no broker, so that peers are
// measured by the same means.
package measure

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
)

// Topic is that of all messages.
const Topic = "bench.message"

// Load says what messages are like. They are numbered from 0, and the messages of a key
// are to arrive in the order of their numbers.
type Load struct {
	Messages int
	Keys     int // 0 for messages without keys
	Payload  int // bytes, at least MinPayload
}

// MinPayload is the size of the number that a payload begins with.
const MinPayload = 8

// Key returns the key of message n, empty if there are none.
func (l *Load) Key(n int) string {
	if l.Keys == 0 {
		return ""
	}
	return strconv.Itoa(n % l.Keys)
}

// Event returns message n. The payload is random but for its number, so that nothing
// on the way can compress it.
func (l *Load) Event(n int) outbox.Event {
	return outbox.Event{Topic: Topic, Key: l.Key(n), Payload: l.Body(n)}
}

// Message returns message n as a relay has it from the database, with an id of its own.
func (l *Load) Message(n int) outbox.Message {
	now := time.Now().UTC()
	return outbox.Message{
		ID: newID(now), Topic: Topic, Key: l.Key(n), ContentType: outbox.ContentTypeBytes, Payload: l.Body(n), CreatedAt: now,
	}
}

// newID returns a UUIDv7 for a tenth of what one costs that nobody can guess: making
// messages must not slow down what only sends them.
func newID(at time.Time) string {
	var id uuid.UUID
	now := uint64(at.UnixMilli())                                          //nolint:gosec // after 1970
	binary.BigEndian.PutUint64(id[:8], now<<16|0x7000|rand.Uint64()&0xfff) //nolint:gosec // no secret
	binary.BigEndian.PutUint64(id[8:], 1<<63|rand.Uint64()>>2)             //nolint:gosec // likewise
	return id.String()
}

// Body returns the payload of message n.
func (l *Load) Body(n int) []byte {
	payload := make([]byte, max(l.Payload, MinPayload))
	binary.BigEndian.PutUint64(payload, uint64(n)) //nolint:gosec // counted from 0
	random := rand.NewPCG(uint64(n), 1)            //nolint:gosec // as above
	rest := payload[MinPayload:]
	for ; len(rest) >= 8; rest = rest[8:] {
		binary.BigEndian.PutUint64(rest, random.Uint64())
	}
	for i := range rest {
		rest[i] = byte(random.Uint64())
	}
	return payload
}

// number returns the number that a payload begins with.
func (l *Load) number(payload []byte) (int, error) {
	if len(payload) < MinPayload {
		return 0, fmt.Errorf("a payload of %d bytes has no number", len(payload))
	}
	n := binary.BigEndian.Uint64(payload)
	if n >= uint64(l.Messages) { //nolint:gosec // not negative
		return 0, fmt.Errorf("message %d was never emitted", n)
	}
	return int(n), nil //nolint:gosec // less than Messages
}
