package brokertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// patience is how long the suite waits for what must happen. It is no measure of
// anything: only a broken driver makes a test wait that long.
const patience = 60 * time.Second

// env is what one test has to do with.
type env struct {
	*testing.T
	broker    Broker
	disturbed atomic.Bool // a connection was cut or stalled: closing it may fail
}

func (e *env) cut() {
	e.disturbed.Store(true)
	e.broker.Features.Cut()
}

func (e *env) stall() {
	e.disturbed.Store(true)
	e.broker.Features.Stall()
}

func newEnv(t *testing.T, b Broker) *env {
	t.Helper()
	if b.Publisher == nil || b.Subscriber == nil {
		t.Fatal("brokertest: Publisher and Subscriber are required")
	}
	if (b.Features.Stall == nil) != (b.Features.Resume == nil) {
		t.Fatal("brokertest: Stall and Resume belong together")
	}
	return &env{T: t, broker: b}
}

// has reports whether the broker declares a feature. A test of one that it lacks
// has nothing to do: it neither fails nor is skipped.
func (e *env) has(feature bool, name string) bool {
	e.Helper()
	if !feature {
		e.Logf("nothing to test: the broker does not declare %s", name)
	}
	return feature
}

// message returns a message that is small and plain, with a new id.
func message(topic, key string) *outbox.Message {
	return &outbox.Message{
		ID: newID(), Topic: topic, Key: key, ContentType: outbox.ContentTypeJSON,
		Payload: []byte(`{"key":` + strconv.Quote(key) + `}`), CreatedAt: time.Now().UTC().Round(0),
	}
}

// messages returns n messages of one topic, with the keys "0", "1" and so on.
func messages(topic string, n int) []*outbox.Message {
	msgs := make([]*outbox.Message, n)
	for i := range msgs {
		msgs[i] = message(topic, strconv.Itoa(i))
	}
	return msgs
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// wait waits for ch to be closed or to yield a value, what tells for what.
func wait[T any](e *env, ch <-chan T, what string) T {
	e.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-ch:
		return v
	case <-timer.C:
		e.Fatalf("waited %s in vain for %s", patience, what)
		panic("unreachable")
	}
}

// keys returns the keys of received messages, in order.
func keys(received []*outbox.Received) []string {
	out := make([]string, len(received))
	for i, r := range received {
		out[i] = r.Key
	}
	return out
}

// subscription returns a plain one.
func subscription(queue string, prefetch int, topics ...string) outbox.Subscription {
	return outbox.Subscription{Queue: queue, Topics: topics, Prefetch: prefetch}
}

// background is a context for calls whose end is not the test's matter.
func background() context.Context { return context.Background() }
