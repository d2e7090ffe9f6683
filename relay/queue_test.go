package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// newTestQueue returns a queue that owns all shards and reads by one stream.
func newTestQueue(config *Config) *queue {
	c := config.withDefaults()
	q := newQueue(&c, 64)
	var claim store.Claim
	for shard := range uint8(64) {
		claim.Leases = append(claim.Leases, store.Lease{Shard: shard, Token: 1})
	}
	claim.Target, claim.Relays = 64, 1
	q.apply(claim, 0, time.Now().Add(time.Hour))
	q.learn()
	return q
}

// learn knows of no parked key.
func (q *queue) learn() {
	shards, gens := q.unknown()
	q.know(shards, gens, nil)
}

// admitRows admits rows as what a reader has found.
func (q *queue) admitRows(rows []store.Row) {
	streams, requests := q.plan()
	pages := make([]store.Page, len(requests))
	pages[0].Rows = rows
	pages[0].Cursor = store.Cursor{Seen: "s"}
	q.admit(streams, requests, pages)
}

func testRows(from, n, keys int) []store.Row {
	rows := make([]store.Row, n)
	for i := range rows {
		m := outbox.Message{ID: "0198f2a4-3c5e-7d61-9b1c-2f6a8e0d4c73", Topic: "order.placed", Position: int64(from + i), Payload: make([]byte, 250)}
		if keys > 0 {
			m.Key = fmt.Sprint("customer-", (from+i)%keys)
		}
		rows[i] = store.Row{Message: m, Shard: uint8(i % 64)}
		if keys > 0 {
			rows[i].Shard = uint8((from + i) % keys % 64)
		}
	}
	return rows
}

// BenchmarkQueue is the way of a message through the queue: admitted, taken,
// answered and settled. One operation is one message.
func BenchmarkQueue(b *testing.B) {
	for _, keys := range []int{0, 10_000} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			const batch = 500
			q := newTestQueue(nil)
			rows := testRows(1, batch*20, keys)
			items := make([]*item, 0, publishBatch)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%batch == 0 {
					b.StopTimer()
					page := rows[i%len(rows)/batch*batch:][:batch]
					b.StartTimer()
					q.admitRows(page)
				}
				if i%batch == batch-1 {
					for left := batch; left > 0; {
						items, _ = q.take(items[:0], publishBatch)
						for _, it := range items {
							q.answered(it, nil)
						}
						left -= len(items)
						done, _ := q.collect(true)
						q.settled(done)
					}
				}
			}
		})
	}
}

// BenchmarkDropShards: a relay with a full memory loses all its shards and gets
// them again.
func BenchmarkDropShards(b *testing.B) {
	for _, keys := range []int{0, 10_000} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			rows := testRows(1, 40_000, keys)
			q := newTestQueue(nil)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				q.admitRows(rows)
				b.StartTimer()
				q.restartAll()
				q.learn()
			}
			if q.bytes != 0 {
				b.Fatalf("%d bytes are held of nothing", q.bytes)
			}
		})
	}
}

// BenchmarkSpill: the memory is full of keys with many messages.
func BenchmarkSpill(b *testing.B) {
	for _, keys := range []int{10, 500} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			rows := testRows(1, 50_000, keys)
			for b.Loop() {
				b.StopTimer()
				q := newTestQueue(nil)
				q.admitRows(rows)
				b.StartTimer()
				q.plan()
			}
		})
	}
}

// TestFullWindowIsWaitedFor, not the rate of what there is no room for.
func TestFullWindowIsWaitedFor(t *testing.T) {
	q := newTestQueue(&Config{Window: 2, Rates: []Rate{{Pattern: "order.#", PerSecond: 1}}})
	rows := testRows(1, 3, 0)
	rows[2].Topic = "other"
	q.admitRows(rows)
	if items, _ := q.take(nil, 10); len(items) != 2 {
		t.Fatalf("%d messages were taken, want 2", len(items))
	}
	q.rules[0].tokens = 1 // meanwhile
	if items, wait := q.take(nil, 10); len(items) != 0 || wait != 0 {
		t.Fatalf("%d messages were taken, and the next look is in %v: want that an answer is waited for", len(items), wait)
	}
}

// TestPageOfAKeyThatWaitsIsTakenWhole: what is behind its head is not cut while the
// rest of the page, and the cursor behind it, are still to come.
func TestPageOfAKeyThatWaitsIsTakenWhole(t *testing.T) {
	q := newTestQueue(nil)
	rows := testRows(1, 300, 1)
	rows[0].RetryIn = time.Hour
	streams, requests := q.plan()
	if _, more := q.admit(streams, requests, []store.Page{{Rows: rows, Cursor: store.Cursor{Seen: "s"}, More: true}}); !more {
		t.Fatal("the rest would wait")
	}
	k := q.streams[1].key
	if n := len(k.items); n != 1 {
		t.Fatalf("%d messages are kept, want the one that waits", n)
	}
	k.items[0].due = time.Now() // an hour later
	q.timers[0].due = k.items[0].due
	items, _ := q.take(nil, 10)
	q.answered(items[0], nil)
	own := q.streams[1]
	request := q.request(own, 1<<20)
	rows = rows[1:]
	rows[0].RetryIn = time.Hour
	cursor := store.Cursor{Seen: "s", After: 300}
	_, more := q.admit([]*stream{own}, []store.ReadRequest{request}, []store.Page{{Rows: rows, Cursor: cursor}})
	if !more {
		t.Error("the other stream, which has more, would wait")
	}
	if len(k.items) != len(rows) || own.cursor != cursor {
		t.Fatalf("%d messages are kept, and the next is read behind %d: want all %d", len(k.items), own.cursor.After, len(rows))
	}
}

// TestParkedKeysOfBeforeAreNotKnown when a shard was begun anew while they were read.
func TestParkedKeysOfBeforeAreNotKnown(t *testing.T) {
	c := (&Config{}).withDefaults()
	q := newQueue(&c, 1)
	claim := store.Claim{Leases: []store.Lease{{Token: 1}}, Target: 1, Relays: 1}
	q.apply(claim, 0, time.Now().Add(time.Hour))
	shards, gens := q.unknown()
	claim.Leases[0].Token = 2
	q.apply(claim, 0, time.Now().Add(time.Hour))
	q.know(shards, gens, []store.Key{{Key: "k"}})
	if again, _ := q.unknown(); again != shards {
		t.Fatalf("the shards %b are to be asked for, want %b", again, shards)
	}
}
