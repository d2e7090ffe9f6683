package brokertest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// fieldMessages are messages whose fields a driver may well get wrong.
func fieldMessages() map[string]*outbox.Message {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	full := outbox.Message{
		ID: newID(), Topic: "user.created", Key: "user 7/ä", Tenant: "acme, Inc.", Type: "user.Created", Version: "1.2",
		ContentType: "application/json; charset=utf-8", Payload: []byte(`{"name":"Jürgen <j@example.com>"}`), CreatedAt: at,
		Headers: map[string]string{outbox.HeaderTraceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
	with := func(change func(m *outbox.Message)) *outbox.Message {
		m := full
		m.ID = newID()
		m.Headers = maps.Clone(full.Headers)
		change(&m)
		return &m
	}
	return map[string]*outbox.Message{
		"full":           &full,
		"only topic":     {ID: newID(), Topic: "a", ContentType: outbox.ContentTypeBytes, CreatedAt: at},
		"own id":         with(func(m *outbox.Message) { m.ID = "invoice-2024/000123-" + newID() }),
		"empty payload":  with(func(m *outbox.Message) { m.Payload = []byte{} }),
		"binary payload": with(func(m *outbox.Message) { m.Payload = all; m.ContentType = outbox.ContentTypeBytes }),
		"large payload":  with(func(m *outbox.Message) { m.Payload = bytes.Repeat(all, 400) }),
		"not ASCII": with(func(m *outbox.Message) {
			m.Topic, m.Key, m.Tenant, m.Type, m.Version = "größe.世界", "schlüssel", "mieter-Ω", "typ.é", "β"
		}),
		"long": with(func(m *outbox.Message) {
			m.Topic = strings.Repeat("abcd.", 50) + "12345"
			m.Key, m.Tenant = strings.Repeat("k", 512), strings.Repeat("t", 512)
			m.Type, m.Version = strings.Repeat("y", 512), strings.Repeat("v", 512)
			m.Headers = map[string]string{strings.Repeat("n", 255): strings.Repeat("v", 8<<10)}
		}),
		"spaces around": with(func(m *outbox.Message) {
			m.Key, m.Tenant, m.Type, m.Version = " k ", "\tt", "y ", "  "
			m.Headers = map[string]string{"spaces": " v ", "tab": "a\tb\t", "space": " "}
		}),
		"percent and equals": with(func(m *outbox.Message) {
			m.Key = "100%25=+?&"
			m.Headers = map[string]string{"percent": "%20%zz", "quoted": `"a\b"`, "encoded": "=?utf-8?q?a?=", "colon": "a: b:c"}
		}),
		"header values": with(func(m *outbox.Message) {
			m.Headers = map[string]string{"empty": "", "umlaut": "Grüße", "cjk": "世界", "emoji": "🐇", "number": "12", "bool": "true"}
		}),
		"header names": with(func(m *outbox.Message) {
			m.Headers = map[string]string{"X-Mixed-Case": "1", "x-mixed-case": "2", "UPPER": "3", "a.b_c~d!e#f$g&h'i*j+k^l`m|n": "4"}
		}),
		// Names that mean something to one broker or another.
		"names of brokers": with(func(m *outbox.Message) {
			m.Headers = map[string]string{
				"Content-Type": "text/plain", "content-type": "text/html", "message-id": "m", "timestamp": "0",
				"CC": "cc", "BCC": "bcc", "x-death": "d", "x-delivery-count": "7", "x-first-death-queue": "q",
				"Nats-Msg-Id": "n", "Nats-Expected-Stream": "nowhere", "Nats-TTL": "1s", "Nats-Rollup": "all", "Status": "503",
				"destination": "/queue/x", "receipt": "r", "content-length": "1", "ce-id": "c",
			}
		}),
		"before 1970": with(func(m *outbox.Message) { m.CreatedAt = time.Date(1969, 7, 20, 20, 17, 40, 1, time.UTC) }),
		"no headers":  with(func(m *outbox.Message) { m.Headers = nil }),
	}
}

func testFields(e *env) {
	for name, m := range fieldMessages() {
		e.Run(name, func(t *testing.T) {
			// Of the same broker, one after the other: a message that harms the
			// connection shows in its own test.
			sub := &env{T: t, broker: e.broker}
			c := sub.subscribe(subscription("fields", 10, "#"))
			p := sub.publisher()
			p.publish(m)
			got := c.next()
			for _, fault := range differences(m, &got.Message) {
				t.Error(fault)
			}
			if got.Redelivered {
				t.Error("Redelivered is true at the first delivery")
			}
			if got.ReceivedAt.IsZero() || time.Since(got.ReceivedAt) > patience {
				t.Errorf("ReceivedAt is %v", got.ReceivedAt)
			}
			sub.settle(got, outbox.Ack)
			c.stop()
		})
	}
}

// differences tells in what a message that arrived is not the one that was sent.
func differences(sent, got *outbox.Message) []string {
	var faults []string
	for _, f := range [...]struct{ name, sent, got string }{
		{"ID", sent.ID, got.ID}, {"Topic", sent.Topic, got.Topic}, {"Key", sent.Key, got.Key},
		{"Tenant", sent.Tenant, got.Tenant}, {"Type", sent.Type, got.Type}, {"Version", sent.Version, got.Version},
		{"ContentType", sent.ContentType, got.ContentType}, {"Payload", string(sent.Payload), string(got.Payload)},
	} {
		if f.sent != f.got {
			faults = append(faults, fmt.Sprintf("%s: got %.200q, sent %.200q", f.name, f.got, f.sent))
		}
	}
	if !maps.Equal(sent.Headers, got.Headers) {
		faults = append(faults, fmt.Sprintf("Headers: got %.2000q, sent %.2000q", fmt.Sprint(got.Headers), fmt.Sprint(sent.Headers)))
	}
	if !sent.CreatedAt.Equal(got.CreatedAt) || got.CreatedAt.Location() != time.UTC {
		faults = append(faults, fmt.Sprintf("CreatedAt: got %v, sent %v", got.CreatedAt, sent.CreatedAt))
	}
	return faults
}

func testPublishOrder(e *env) {
	const n = 5 * window
	c := e.subscribe(subscription("orders", 100, "order.*"))
	p := e.publisher()
	p.publish(messages("order.placed", n)...)
	for i, r := range c.handle(n) {
		if r.Key != strconv.Itoa(i) {
			e.Fatalf("message %d to arrive is number %s of those published", i, r.Key)
		}
	}
	c.nothingBut(p, "order.end")
}

func testPublishWithoutQueue(e *env) {
	c := e.subscribe(subscription("some", 10, "some.*"))
	p := e.publisher()
	msgs := []*outbox.Message{message("some.a", "first"), message("nobody.cares", "lost"), message("some.b", "last")}
	answers := p.sendAll(msgs)
	for i, a := range answers {
		err := a.wait(e)
		switch {
		case i == 1 && e.broker.Features.Unroutable:
			e.wantErr(a, outbox.ErrRefused)
		case err != nil:
			e.Errorf("publish to %s: %v", a.message.Topic, err)
		}
	}
	if got := fmt.Sprint(keys(c.handle(2))); got != "[first last]" {
		e.Errorf("got %s, want [first last]", got)
	}
}

func testDedup(e *env) {
	if !e.has(e.broker.Features.Dedup, "Dedup") {
		return
	}
	c := e.subscribe(subscription("dedup", 10, "#"))
	p := e.publisher()
	m := message("dedup.this", "twice")
	p.publish(m)
	p.publish(m)
	second := e.publisher()
	second.publish(m)
	c.handle(1)
	c.nothingBut(p, "dedup.end")
}

func testOversized(e *env) {
	limit := e.broker.Features.MaxPayload
	if !e.has(limit > 0, "MaxPayload") {
		return
	}
	c := e.subscribe(subscription("sizes", 10, "#"))
	p := e.publisher()
	large, fits := message("size.large", "large"), message("size.fits", "fits")
	large.ContentType, fits.ContentType = outbox.ContentTypeBytes, outbox.ContentTypeBytes
	large.Payload, fits.Payload = make([]byte, 2*limit), make([]byte, limit)
	before, tooLarge, exact := message("size.small", "before"), p.send(background(), large), p.send(background(), fits)
	e.wantErr(tooLarge, outbox.ErrInvalid)
	if err := exact.wait(e); err != nil {
		e.Errorf("a payload of MaxPayload bytes: %v", err)
	}
	p.publish(before)
	if got := fmt.Sprint(keys(c.handle(2))); got != "[fits before]" {
		e.Errorf("got %s, want [fits before]", got)
	}
}

func testCancelledContext(e *env) {
	c := e.subscribe(subscription("cancelled", 10, "#"))
	p := e.publisher()
	ctx, cancel := context.WithCancel(background())
	cancel()
	e.wantErr(p.send(ctx, message("never.sent", "never")), outbox.ErrUnavailable)
	// A context bounds the call, not the answer.
	ctx, cancel = context.WithCancel(background())
	a := p.send(ctx, message("was.sent", "sent"))
	cancel()
	p.flush()
	if err := a.wait(e); err != nil {
		e.Errorf("a message whose context ended after Publish had returned: %v", err)
	}
	if got := c.handle(1)[0]; got.Key != "sent" {
		e.Errorf("got the message with key %q", got.Key)
	}
	c.nothingBut(p, "the.end")
}

func testClosedPublisher(e *env) {
	e.subscribe(subscription("everything", 10, "#"))
	p := e.publisher()
	p.publish(message("before.close", ""))
	p.close()
	a := p.send(background(), message("after.close", ""))
	p.flush()
	e.wantErr(a, outbox.ErrUnavailable)
}

func testCloseAnswersAll(e *env) {
	c := e.subscribe(subscription("closing", 100, "#"))
	p := e.publisher()
	msgs := messages("close.race", window)
	answers := make([]*answer, 0, len(msgs))
	for _, m := range msgs {
		answers = append(answers, p.send(background(), m))
	}
	p.close()
	confirmed := 0
	for _, a := range answers {
		if !isGiven(a) {
			e.Fatalf("Close returned before message %s was answered", a.message.ID)
		}
		if a.err == nil {
			confirmed++
		} else {
			e.wantErr(a, outbox.ErrUnavailable)
		}
	}
	// What was confirmed must be there; what was not, may be.
	seen := map[string]bool{}
	for _, a := range answers {
		if a.err != nil {
			continue
		}
		for !seen[a.message.ID] {
			seen[c.handle(1)[0].ID] = true
		}
	}
	e.Logf("%d of %d messages were confirmed before Close", confirmed, len(msgs))
}
