package relay

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// newHandoverQueue returns a queue at the end of what there is to read, and what reads
// once: rows, up to a cursor that has seen the marks in seen.
func newHandoverQueue(t *testing.T, config *Config) (q *queue, read func(seen string, rows ...store.Row)) {
	t.Helper()
	q = newTestQueue(config)
	q.saw = func(c store.Cursor, mark string) bool { return slices.Contains([]byte(c.Seen), mark[0]) }
	read = func(seen string, rows ...store.Row) {
		t.Helper()
		streams, requests := q.plan()
		if len(requests) == 0 {
			t.Fatal("nothing is read")
		}
		pages := make([]store.Page, len(requests))
		pages[0] = store.Page{Rows: rows, Cursor: store.Cursor{Seen: seen}}
		for i := range pages {
			pages[i].Cursor = pages[0].Cursor
		}
		q.admit(streams, requests, pages)
	}
	read("-")
	return q, read
}

func commitOf(mark string, rows ...store.Row) store.Commit {
	return store.Commit{Rows: slices.Clone(rows), Written: time.Now(), Mark: mark}
}

// taken returns the positions of what is sent now.
func taken(q *queue) (positions []int64) {
	items, _ := q.take(nil, 100)
	for _, it := range items {
		positions = append(positions, it.row.Position)
	}
	return positions
}

func wantTaken(t *testing.T, q *queue, what string, want ...int64) {
	t.Helper()
	if got := taken(q); !slices.Equal(got, want) {
		t.Errorf("%s: %v is sent, want %v", what, got, want)
	}
}

func TestHandedOverMessageIsSentOnce(t *testing.T) {
	for _, keys := range []int{0, 10} {
		q, read := newHandoverQueue(t, nil)
		row := testRows(1, 1, keys)[0]
		q.handOver(commitOf("a", row))
		if keys > 0 {
			wantTaken(t, q, "before a read that began after it was written")
			read("-")
		}
		wantTaken(t, q, "handed over", 1)
		read("-a", row)
		wantTaken(t, q, "read as well")
		q.handOver(commitOf("a", row))
		wantTaken(t, q, "handed over after it was read")
		if n := len(q.shards[row.Shard].handed); n != 0 {
			t.Errorf("%d messages are remembered that cannot be read any more", n)
		}
	}
}

// TestHandedOverMessageIsNotAheadOfItsKey: not of one that was committed before it was
// written, and is found by the read that it waits for.
func TestHandedOverMessageIsNotAheadOfItsKey(t *testing.T) {
	q, read := newHandoverQueue(t, nil)
	rows := testRows(1, 2, 1)
	q.handOver(commitOf("b", rows[1]))
	read("-a", rows[0])
	wantTaken(t, q, "with one ahead of it", 1)
	read("-ab", rows[1])
	wantTaken(t, q, "while that is in flight")
}

// TestReadUnderWayDoesNotCount: it may have begun before what is ahead was committed.
func TestReadUnderWayDoesNotCount(t *testing.T) {
	q, _ := newHandoverQueue(t, nil)
	streams, requests := q.plan()
	q.handOver(commitOf("b", testRows(1, 1, 1)...))
	q.admit(streams, requests, []store.Page{{Cursor: store.Cursor{Seen: "-"}}})
	wantTaken(t, q, "after a read that was under way")
}

// TestHandedOverMessageThatWasPassedIsForgotten, since it was deleted before it could
// be read.
func TestHandedOverMessageThatWasPassedIsForgotten(t *testing.T) {
	q, read := newHandoverQueue(t, nil)
	row := testRows(1, 1, 0)[0]
	q.handOver(commitOf("a", row))
	wantTaken(t, q, "handed over", 1)
	read("-")
	if n := len(q.shards[row.Shard].handed); n != 1 {
		t.Errorf("%d messages are remembered, want the one that may yet be read", n)
	}
	read("-a")
	if n := len(q.shards[row.Shard].handed); n != 0 {
		t.Errorf("%d messages are remembered that cannot be read any more", n)
	}
}

// TestRefusedHandedOverMessageIsReadFromTheStart, with all that waits behind it.
func TestRefusedHandedOverMessageIsReadFromTheStart(t *testing.T) {
	q, _ := newHandoverQueue(t, nil)
	row := testRows(1, 1, 0)[0]
	q.handOver(commitOf("a", row))
	items, _ := q.take(nil, 10)
	q.answered(items[0], outbox.Refused(errors.New("no")))
	q.recorded(q.collectRefused())
	if !q.fresh.Has(row.Shard) || q.bytes != 0 {
		t.Errorf("its shard is read from the start: %v, %d bytes are held; want true and none", q.fresh.Has(row.Shard), q.bytes)
	}
	q.learn()
	next := testRows(65, 1, 0)[0]
	next.Shard = row.Shard
	q.handOver(commitOf("b", next))
	wantTaken(t, q, "handed over to a shard with trouble")
}

// TestShardsInMotionTakeNothingOver: the reader brings what they get.
func TestShardsInMotionTakeNothingOver(t *testing.T) {
	row := testRows(1, 1, 0)[0]
	for name, change := range map[string]func(q *queue){
		"read from the start": func(q *queue) { q.restartAll() },
		"lost":                func(q *queue) { q.apply(store.Claim{Target: 64}, 0, time.Now().Add(time.Hour)) },
		"lease over":          func(q *queue) { q.suspend() },
		"stopping":            func(q *queue) { q.stop() },
		"paused":              func(q *queue) { q.pauses = []store.Pause{{Topic: row.Topic}} },
		"more to read":        func(q *queue) { q.streams[0].more = true },
		"much to send":        func(q *queue) { q.admitRows(testRows(1000, handoverQueue+1, 0)) },
	} {
		q, _ := newHandoverQueue(t, nil)
		change(q)
		before := q.bytes
		q.handOver(commitOf("a", row))
		if q.bytes != before {
			t.Errorf("%s: the message was taken over", name)
		}
	}
}

// TestKeyOfAHandedOverMessageStaysInMemory while a reader could not go on behind it, and
// no longer: not if it has read it, or if the message is gone.
func TestKeyOfAHandedOverMessageStaysInMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		between func(q *queue, read func(string, ...store.Row), first store.Row)
		stays   bool
	}{
		"not read": {func(*queue, func(string, ...store.Row), store.Row) {}, true},
		"read":     {func(_ *queue, read func(string, ...store.Row), first store.Row) { read("-a", first) }, false},
		"gone": {func(q *queue, _ func(string, ...store.Row), _ store.Row) {
			items, _ := q.take(nil, 1)
			q.answered(items[0], nil)
			done, _ := q.collect(true)
			q.settled(done)
		}, false},
	} {
		q, read := newHandoverQueue(t, &Config{Memory: 1 << 20})
		rows := testRows(1, 1100, 1)
		q.handOver(commitOf("a", rows[0]))
		read("-")
		tc.between(q, read, rows[0])
		read("-b", rows[1:]...)
		q.take(nil, 1)
		q.plan()
		k := q.shards[rows[0].Shard].keys[store.Key{Key: rows[0].Key}]
		if stays := k.behind == nil; stays != tc.stays {
			t.Errorf("%s: the key stays in memory: %v, want %v (%d messages)", name, stays, tc.stays, len(k.items))
		}
	}
}

// TestNothingIsHandedOverThatTheReaderMustBring.
func TestNothingIsHandedOverThatTheReaderMustBring(t *testing.T) {
	rows := testRows(1, 2, 10)
	for name, tc := range map[string]struct {
		config *Config
		change func(q *queue)
		rows   []store.Row
	}{
		"its topic has a rate": {&Config{Rates: []Rate{{Pattern: "#", PerSecond: 1}}}, func(*queue) {}, rows[:1]},
		"its key is parked": {nil, func(q *queue) {
			q.shards[rows[0].Shard].parked = map[store.Key]struct{}{{Key: rows[0].Key}: {}}
		}, rows[:1]},
		"its key is forgotten": {nil, func(q *queue) {
			q.shards[rows[0].Shard].forgotten.keys = map[uint64]struct{}{q.hash(store.Key{Key: rows[0].Key}): {}}
		}, rows[:1]},
		"its tenant's stream has more": {nil, func(q *queue) {
			t := q.tenantOf("t")
			t.split = true
			q.streams = append(q.streams, &stream{shards: store.FirstShards(64), tenant: t, more: true})
		}, ofTenant("t", rows[:1])},
		"another of its commit is elsewhere": {nil, func(q *queue) { q.shards[rows[1].Shard].owned = false }, rows},
		"reads fail":                         {nil, func(q *queue) { q.readFault = errors.New("no") }, rows[:1]},
		"too much is unread":                 {nil, func(q *queue) { q.handedCount = maxHanded }, rows[:1]},
	} {
		q, _ := newHandoverQueue(t, tc.config)
		tc.change(q)
		if q.handOver(commitOf("a", tc.rows...)) {
			t.Errorf("%s: the commit was taken over", name)
		}
	}
}

func ofTenant(name string, rows []store.Row) []store.Row {
	rows = slices.Clone(rows)
	for i := range rows {
		rows[i].Tenant = name
	}
	return rows
}

// TestAnotherRowAtTheSamePositionIsRead: a restored sequence gives positions again.
func TestAnotherRowAtTheSamePositionIsRead(t *testing.T) {
	q, read := newHandoverQueue(t, nil)
	row := testRows(1, 1, 0)[0]
	q.handOver(commitOf("a", row))
	wantTaken(t, q, "handed over", 1)
	row.ID = "0198f2a4-3c5e-7d61-9b1c-2f6a8e0d4c74"
	read("-a", row)
	wantTaken(t, q, "another one", 1)
}
