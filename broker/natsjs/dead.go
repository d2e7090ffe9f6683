package natsjs

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
)

// ensureDeadStream makes or checks the stream of the dead letters; main is the
// main stream, whose replicas it has too.
func (b *Broker) ensureDeadStream(ctx context.Context, c *conn, main jetstream.StreamConfig) error {
	subject := b.deadSubjects() + ">"
	for _, taken := range main.Subjects {
		if overlap(taken, subject) {
			return &topologyError{
				what: fmt.Sprintf("stream %q collects %q, which %q of the dead letters is part of", main.Name, taken, subject),
				hint: "narrow its subjects, or change Config.SubjectPrefix",
			}
		}
	}
	stream, err := b.makeStream(ctx, c, b.deadStreamConfig(main), "create it, for dead letters, with workqueue retention and")
	if err != nil {
		return err
	}
	have := stream.CachedInfo().Config
	if have.Retention != jetstream.WorkQueuePolicy {
		return &topologyError{
			what: fmt.Sprintf("stream %q, for dead letters, has %s retention, not workqueue", have.Name, strings.ToLower(have.Retention.String())),
			hint: "create it anew: a dead letter has to be gone once it is acknowledged, and not before",
		}
	}
	return checkStream(have, subject, "change Config.Stream or Config.SubjectPrefix")
}

// deadStreamConfig: with a work queue's retention a dead letter stays until a
// subscriber of its queue's dead letters acknowledges it, also while there is
// none. The nats tool shows what such a stream has only by direct access.
func (b *Broker) deadStreamConfig(main jetstream.StreamConfig) jetstream.StreamConfig {
	window := b.config.DuplicateWindow
	if age := b.config.DeadLetterMaxAge; age > 0 {
		window = min(window, age)
	}
	return jetstream.StreamConfig{
		Name:        b.deadStream(),
		Description: "dead letters of a transactional outbox",
		Subjects:    []string{b.deadSubjects() + ">"},
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		MaxAge:      b.config.DeadLetterMaxAge,
		MaxBytes:    -1,
		MaxMsgs:     -1,
		Replicas:    main.Replicas,
		Duplicates:  window,
		AllowDirect: true,
	}
}

// deadLetter returns the copy of a message for the stream of the dead letters.
// Its own Nats-Msg-Id names the message by its place, not by the id that its
// sender gave it, if any: the same one is recognized when it comes again, in
// another queue it is another dead letter, and so it is in a stream that was made
// anew and counts from one again.
func (c *consumption) deadLetter(d *delivery, f *outbox.Failure) *nats.Msg {
	m := &outbox.Message{}
	c.read(d, m)
	h := headerFor(m)
	if id := h[headerMsgID]; len(id) > 0 && !isFragile(m.ID) {
		h[outbox.HeaderID] = id // else it is there, escaped
	}
	for name, value := range f.Headers() {
		name, value = userHeader(name, value)
		h[name] = []string{value}
	}
	h[headerMsgID] = []string{fmt.Sprintf("%s.%d.%d", c.src.consumer, d.sequence, d.stored.UnixNano())}
	h[headerExpectedStream] = []string{c.broker.deadStream()}
	return &nats.Msg{Subject: c.broker.deadPrefix(c.src.consumer) + m.Topic, Header: h, Data: d.msg.Data}
}

// shorten takes off a dead letter what it can do without.
func shorten(msg *nats.Msg) {
	for _, name := range []string{outbox.HeaderReason, outbox.HeaderHandler} {
		delete(msg.Header, name)
		delete(msg.Header, prefixUser+name)
	}
}

// readDead is readHeader for a dead letter.
func readDead(h nats.Header, m *outbox.Message) *outbox.Failure {
	id := h[outbox.HeaderID]
	delete(h, outbox.HeaderID)
	delete(h, headerMsgID) // the dead letter's, not the message's
	readHeader(h, m)
	if len(id) > 0 {
		m.ID = id[0]
	}
	return takeFailure(m)
}

// takeFailure takes the failure out of m's headers.
func takeFailure(m *outbox.Message) *outbox.Failure {
	if len(m.Headers) == 0 {
		return nil
	}
	f := outbox.TakeFailure(m.Headers)
	if len(m.Headers) == 0 {
		m.Headers = nil
	}
	return f
}
