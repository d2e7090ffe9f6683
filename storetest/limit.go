package storetest

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func limitCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Read/Limit", run: readLimit[Tx]},
		{name: "Read/MaxBytes", run: readMaxBytes[Tx]},
		{name: "Read/MaxBytesReturnsOneRow", run: readOneLargeRow[Tx]},
		{name: "Read/Only", run: readOnly[Tx]},
		{name: "Read/Except", run: readExcept[Tx]},
		{name: "Read/ExceptManyKeys", run: readExceptMany[Tx]},
		{name: "Read/PagesOfAFilteredRead", run: readFilteredPages[Tx]},
		{name: "Read/BehindAnyRow", run: readBehindAnyRow[Tx]},
	}
}

func readLimit[Tx any](e *env[Tx]) {
	events := numbered(25)
	e.emit(events[:3]...)
	e.emit(events[3:]...)
	for _, limit := range []int{1, 7, 25, 1000} {
		r := e.from(store.Cursor{})
		r.Limit = limit
		var got []string
		for more := true; more; {
			page := e.read(r)[0]
			if len(page.Rows) > limit {
				e.t.Fatalf("a page of %d rows with a limit of %d", len(page.Rows), limit)
			}
			got = append(got, topicsOf(page.Rows)...)
			r.Cursor, more = page.Cursor, page.More
			if !more && len(got) < len(events) {
				e.t.Fatalf("the limit %d: after %d of %d rows there is said to be no more", limit, len(got), len(events))
			}
			if len(got) > len(events) {
				break
			}
		}
		if want := topics(events); !slices.Equal(got, want) {
			e.t.Fatalf("the limit %d: the pages have %v, want %v", limit, got, want)
		}
	}
}

func readMaxBytes[Tx any](e *env[Tx]) {
	events := numbered(20)
	for i := range events {
		events[i].Payload = bytes.Repeat([]byte{'p'}, 1000)
	}
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.MaxBytes = 5500
	var got []string
	for pages := 0; ; pages++ {
		page := e.read(r)[0]
		got = append(got, topicsOf(page.Rows)...)
		size := 0
		for i := range page.Rows {
			// The row that goes beyond may be the page's last, but none after it.
			if size > r.MaxBytes {
				e.t.Fatalf("row %d of a page is behind %d bytes, at most %d are allowed", i, size, r.MaxBytes)
			}
			size += page.Rows[i].Size()
		}
		r.Cursor = page.Cursor
		if !page.More {
			break
		}
		if pages > 2*len(events) {
			e.t.Fatal("the pages do not come to an end")
		}
	}
	if want := topics(events); !slices.Equal(got, want) {
		e.t.Fatalf("the pages have %v, want %v", got, want)
	}
}

func readOneLargeRow[Tx any](e *env[Tx]) {
	events := numbered(3)
	for i := range events {
		events[i].Payload = make([]byte, 100_000)
	}
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.MaxBytes = 1
	for i := range events {
		page := e.read(r)[0]
		e.wantTopics(page.Rows, events[i].Topic)
		r.Cursor = page.Cursor
	}
}

// crowd returns n events of each: the key "slow", the key "slow" of a tenant, the
// key "fast", and no key.
func crowd(n int) []outbox.Event {
	var events []outbox.Event
	for i := range n {
		events = append(events,
			outbox.Event{Topic: fmt.Sprintf("slow.%d", i), Key: "slow"},
			outbox.Event{Topic: fmt.Sprintf("tenant.%d", i), Key: "slow", Tenant: "x"},
			outbox.Event{Topic: fmt.Sprintf("fast.%d", i), Key: "fast"},
			outbox.Event{Topic: fmt.Sprintf("none.%d", i)},
		)
	}
	return events
}

// where returns the topics of the events that are chosen.
func where(events []outbox.Event, chosen func(store.Key) bool) []string {
	var list []string
	for _, event := range events {
		if chosen(store.Key{Tenant: event.Tenant, Key: event.Key}) {
			list = append(list, event.Topic)
		}
	}
	return list
}

func readOnly[Tx any](e *env[Tx]) {
	events := crowd(10)
	e.emit(events...)
	for _, key := range []store.Key{{Key: "slow"}, {Tenant: "x", Key: "slow"}, {Tenant: "x", Key: "fast"}, {Key: "fast"}} {
		r := e.from(store.Cursor{})
		r.Only, r.Limit = &key, 4
		rows, _ := e.readAll(r)
		e.wantTopics(rows, where(events, func(k store.Key) bool { return k == key })...)
	}
}

func readExcept[Tx any](e *env[Tx]) {
	events := crowd(10)
	e.emit(events...)
	for _, except := range [][]store.Key{
		{{Key: "slow"}},
		{{Tenant: "x", Key: "slow"}},
		{{Tenant: "x", Key: "slow"}, {Key: "fast"}},
		{{Tenant: "x", Key: "fast"}, {Tenant: "y", Key: "slow"}},
	} {
		r := e.from(store.Cursor{})
		r.Except, r.Limit = except, 6
		rows, _ := e.readAll(r)
		e.wantTopics(rows, where(events, func(k store.Key) bool { return !slices.Contains(except, k) })...)
	}
}

// readExceptMany: hundreds of keys may wait at the same time.
func readExceptMany[Tx any](e *env[Tx]) {
	const n = 500
	events := make([]outbox.Event, n)
	except := make([]store.Key, 0, n)
	for i := range events {
		key := fmt.Sprintf("key '%d'", i)
		events[i] = outbox.Event{Topic: fmt.Sprintf("t.%d", i), Key: key}
		if i%50 != 0 {
			except = append(except, store.Key{Key: key})
		}
	}
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.Except = except
	rows, _ := e.readAll(r)
	e.wantTopics(rows, where(events, func(k store.Key) bool { return !slices.Contains(except, k) })...)
}

// readFilteredPages: what a key left out at first is read on from a cursor of the
// others, together with what was added since.
func readFilteredPages[Tx any](e *env[Tx]) {
	events := crowd(20)
	e.emit(events[:40]...)
	slow := store.Key{Key: "slow"}
	start := e.from(store.Cursor{})
	start.Limit = 10
	page := e.read(start)[0]
	held := page.Cursor // from here on, the key waits

	others := e.from(held)
	others.Except, others.Limit = []store.Key{slow}, 9
	rest, cursor := e.readAll(others)
	e.emit(events[40:]...)
	others.Cursor = cursor
	more, _ := e.readAll(others)
	e.wantTopics(append(rest, more...), where(events[10:], func(k store.Key) bool { return k != slow })...)

	only := e.from(held)
	only.Only, only.Limit = &slow, 3
	waited, _ := e.readAll(only)
	e.wantTopics(waited, where(events[10:], func(k store.Key) bool { return k == slow })...)
}

// readBehindAnyRow: a reader that gives up the rest of a page reads it again, as it
// was, with what came later behind it.
func readBehindAnyRow[Tx any](e *env[Tx]) {
	events := numbered(30)
	for i := range events[:20] {
		e.emit(events[i])
	}
	r := e.from(store.Cursor{})
	for _, limit := range []int{7, 100, 5, 100} {
		r.Limit = limit
		page := e.read(r)[0]
		next := r
		next.Cursor = page.Cursor
		rest, _ := e.readAll(next)
		all := append(topicsOf(page.Rows), topicsOf(rest)...)
		for i := range page.Rows {
			behind := r
			behind.Cursor = store.Cursor{Seen: r.Cursor.Seen, Epoch: page.Cursor.Epoch, After: page.Rows[i].Position}
			if behind.Cursor.Epoch == "" {
				behind.Cursor.Epoch = page.Cursor.Seen
			}
			rows, _ := e.readAll(behind)
			e.wantTopics(rows, all[i+1:]...)
		}
		r.Cursor = page.Cursor
		if len(rest) == 0 && limit == 100 && len(events) > 20 {
			e.emit(events[20:]...)
			events = events[:20]
		}
	}
}
