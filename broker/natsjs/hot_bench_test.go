package natsjs

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

func hotMessage() *outbox.Message {
	return &outbox.Message{
		ID: "0190b5c6-0000-7000-8000-000000000001", Topic: "user.created", Key: "1234", Type: "user",
		ContentType: outbox.ContentTypeJSON, Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		CreatedAt: time.Unix(1700000000, 0).UTC(), Payload: make([]byte, 250),
	}
}

// BenchmarkHeader makes the headers of a message, as for each that is published.
func BenchmarkHeader(b *testing.B) {
	m := hotMessage()
	var h headers
	b.ReportAllocs()
	for b.Loop() {
		h.fill(m)
	}
}

// BenchmarkAnswer reads the server's answer to a message.
func BenchmarkAnswer(b *testing.B) {
	msg := &nats.Msg{Data: []byte(`{"stream":"outbox","seq":1234567}`)}
	b.ReportAllocs()
	for b.Loop() {
		if err := classifyAnswer(msg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode makes what is passed on of what has arrived.
func BenchmarkDecode(b *testing.B) {
	config := (*Config)(nil).withDefaults()
	c := newConsumption(&Broker{config: config}, outbox.Subscription{Queue: "q"})
	msg := &nats.Msg{
		Subject: config.SubjectPrefix + "user.created", Reply: "$JS.ACK.outbox.q.1.1234567.1234567.1700000000000000000.0",
		Header: headerFor(hotMessage()), Data: make([]byte, 250),
	}
	b.ReportAllocs()
	for b.Loop() {
		d := &delivery{msg: msg, reply: msg.Reply}
		d.position, d.placed = positionOf(msg.Reply)
		if r := c.received(d); r.Key != "1234" {
			b.Fatalf("key %q", r.Key)
		}
	}
}

// BenchmarkSettle acknowledges what was passed on, without a connection: what the
// bookkeeping costs.
func BenchmarkSettle(b *testing.B) {
	config := (*Config)(nil).withDefaults()
	c := newConsumption(&Broker{config: config}, outbox.Subscription{Queue: "q", Prefetch: 1000})
	d := &delivery{}
	b.ReportAllocs()
	for b.Loop() {
		c.unsettled[d] = struct{}{}
		if err := c.settle(d, outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			b.Fatal(err)
		}
	}
}
