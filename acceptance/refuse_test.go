package acceptance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/relay"
)

// impatientRelay tries again soon what was refused.
func impatientRelay(hooks ...relay.Hook) relay.Config {
	return relay.Config{RefusedBackoff: 100 * time.Millisecond, MaxRefusedBackoff: 500 * time.Millisecond, Hooks: hooks}
}

// limit has the broker take about n messages and refuse the rest, until room is
// made and the recorder, which that returns, gets them all.
func (s *system) limit(t *testing.T, n int) (makeRoom func() *recorder) {
	t.Helper()
	const queue = "limited"
	switch b := s.broker.(type) {
	case *rabbit:
		config := &rabbitmq.SubscriberConfig{
			QueueType:      rabbitmq.Classic, // counts exactly
			QueueArguments: map[string]any{"x-max-length": n, "x-overflow": "reject-publish"},
		}
		startWorker(t, rabbitSubscriber(t, b.brokerURL(), config), queue, "#").stop()
		return func() *recorder { return startWorker(t, rabbitSubscriber(t, b.brokerURL(), config), queue, "#") }
	case *jetStream:
		b.setStream(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = int64(n) })
		return func() *recorder {
			b.setStream(t, func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 })
			return s.startWorker(t)
		}
	}
	panic("unknown broker")
}

func TestK21_OnlyConfirmedIsDeleted(t *testing.T) {
	const room, keys = 10, 30
	eachSystem(t, func(t *testing.T, s *system) {
		makeRoom := s.limit(t, room)
		s.placeOrders(t, "batch", keys, 1)
		ids := map[string]bool{}
		for _, row := range pending(t, s) {
			ids[row.id] = true
		}
		book := newSent()
		theRelay := s.startRelay(t, impatientRelay(book))
		var rows []pendingRow
		eventually(t, "every message to be confirmed or refused", func() (bool, string) {
			rows = pending(t, s)
			answered := 0
			for _, row := range rows {
				if row.attempts > 0 {
					answered++
				}
			}
			confirmed := len(book.read(book.confirmed))
			return len(rows)+confirmed == keys && answered == len(rows), fmt.Sprintf("%d rows, %d of them refused", len(rows), answered)
		})
		if len(rows) == 0 || len(rows) == keys {
			t.Fatalf("%d of %d rows are left: not a part of the batch has failed", len(rows), keys)
		}
		confirmed := book.read(book.confirmed)
		for _, row := range rows {
			if confirmed[row.id] > 0 {
				t.Errorf("message %s was confirmed and is in the outbox", row.id)
			}
			if row.lastError == "" {
				t.Errorf("message %s has %d attempts and no last error", row.id, row.attempts)
			}
			delete(ids, row.id)
		}
		for id := range ids {
			if confirmed[id] == 0 {
				t.Errorf("message %s has left the outbox without a confirm", id)
			}
		}
		theRelay.alive()
		t.Logf("%d of %d were refused: %s", len(rows), keys, rows[0].lastError)
		// The broker agrees: it has what was confirmed, and takes the rest now.
		s.wantNoRepeats(t, makeRoom())
	})
}

func TestE06_SuccessRemovesTheEntry(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		calls := func(book *sent) int { return len(book.read(book.published)) }
		book := newSent()
		first := s.startRelay(t, relay.Config{Hooks: []relay.Hook{book}})
		s.placeOrders(t, "entry", 3, 1)
		r.await(3)
		s.awaitPending(t, 0)
		first.stop()
		if n := calls(book); n != 3 {
			t.Errorf("the first run sent %d messages, want 3", n)
		}
		again, reads := newSent(), newReadWatch()
		second := s.startRelay(t, relay.Config{Hooks: []relay.Hook{again, reads}})
		select {
		case <-reads.reads:
		case <-time.After(patience):
			t.Fatal("the second run does not read")
		}
		// What is emitted last is read last: whatever a second run sends of old, it
		// has sent by then.
		must(t, s.inTx(func(tx transaction) error { return place(tx, "entry", "key-0") }))
		r.await(4)
		s.awaitPending(t, 0)
		second.stop()
		if n := calls(again); n != 1 {
			t.Errorf("the second run sent %d messages, want the new one only", n)
		}
		s.wantNoRepeats(t, r)
	})
}

// refusedTopic returns a topic whose messages the broker refuses, and what ends
// that.
func (s *system) refusedTopic(t *testing.T) (topic string, accept func()) {
	t.Helper()
	topic = "nobody.listens"
	switch b := s.broker.(type) {
	case *rabbit: // unroutable
		return topic, func() { startWorker(t, s.subscriber(t), "late", topic) }
	case *jetStream: // a subject that is full
		set := func(most int64) {
			b.setStream(t, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject, c.DiscardNewPerSubject = most, most > 0 })
		}
		b.setStream(t, func(*jetstream.StreamConfig) {})
		_, err := b.client(t).Publish(context.Background(), "outbox."+topic, nil)
		must(t, err)
		set(1)
		return topic, func() { set(-1) }
	}
	panic("unknown broker")
}

func TestE10_OthersGoOnWhenOneFails(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		topic, accept := s.refusedTopic(t)
		r := startWorker(t, s.subscriber(t), "orders", "order.#")
		emit := func(topic, key string) {
			must(t, s.inTx(func(tx transaction) error { return tx.emit(outbox.Event{Topic: topic, Key: key, Payload: []byte(key)}) }))
		}
		emit(topic, "failing")
		emit("order.2", "other")
		emit("order.3", "failing") // waits for its predecessor
		emit("order.4", "")
		theRelay := s.startRelay(t, impatientRelay())
		r.await(2)
		eventually(t, "the refusal to be recorded", func() (bool, string) {
			rows := pending(t, s)
			return len(rows) == 2 && rows[0].topic == topic && rows[0].attempts > 2, fmt.Sprintf("%+v", rows)
		})
		rows := pending(t, s)
		if rows[0].lastError == "" || rows[1].topic != "order.3" || rows[1].attempts != 0 {
			t.Errorf("the rows are %+v, want the refused one with its error, and its successor untried", rows)
		}
		theRelay.alive()
		accept()
		s.awaitPending(t, 0)
		for i, d := range r.await(3) {
			if i < 2 && d.Topic == "order.3" {
				t.Error("a successor was delivered before the message that it waits for")
			}
		}
	})
}
