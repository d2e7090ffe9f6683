package acceptance

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// insertScheduledSQL is the documented INSERT for other languages; the time is two
// seconds from now by the database's clock.
func insertScheduledSQL(d database) string {
	if _, ok := d.(*postgres); ok {
		return `INSERT INTO outbox.scheduled (topic, payload, deliver_at) VALUES ($1, convert_to($2, 'UTF8'), clock_timestamp() + interval '2 s')`
	}
	return `INSERT INTO outbox_scheduled (topic, payload, deliver_at)
		VALUES ($1, $2, CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000 + 2000000)`
}

func TestK06_DeliverAt(t *testing.T) {
	const delay = 2 * time.Second
	eachSystem(t, func(t *testing.T, s *system) {
		r, whole := s.startWorker(t), s.whole(t)
		s.startRelay(t, relay.Config{})
		began := time.Now()
		due := began.Add(delay)
		must(t, s.inTx(func(tx transaction) error {
			return errors.Join(tx.emit(
				outbox.Event{Topic: "later.first", Key: "a", DeliverAt: due},
				outbox.Event{Topic: "at.once", Key: "a"},
				outbox.Event{Topic: "later.second", Key: "a", DeliverAt: due},
				outbox.Event{Topic: "past", Key: "a", DeliverAt: began.Add(-time.Hour)},
			), tx.exec(insertScheduledSQL(s.database), "later.inserted", "{}"))
		}))
		err := s.inTx(func(tx transaction) error {
			return errors.Join(tx.emit(outbox.Event{Topic: "phantom", DeliverAt: due}), errUndone)
		})
		if !errors.Is(err, errUndone) {
			t.Fatalf("InTx returned %v", err)
		}
		for _, d := range r.await(2) {
			if d.Topic != "at.once" && d.Topic != "past" {
				t.Errorf("%s was delivered before those that were due", d.Topic)
			}
		}
		if list := stored(t, whole, store.Scheduled); time.Now().Before(due) && len(list) != 3 {
			t.Errorf("scheduled are %+v, want three", list)
		}
		r.awaitWithin(5, delay+soon)
		s.wantDue(t, r.deliveries(), due)
		if list := stored(t, whole, store.Scheduled); len(list) != 0 {
			t.Errorf("scheduled are still %+v", list)
		}
		s.awaitSent(t, r, 5)
	})
}

// wantDue checks the times, and the order of the key.
func (s *system) wantDue(t *testing.T, got []delivery, due time.Time) {
	t.Helper()
	place := map[string]int{}
	for i, d := range got {
		place[d.Topic] = i
		// An INSERT took its time from the database after the others had theirs.
		if late := d.at.Sub(due); (d.Topic != "at.once" && d.Topic != "past") && late < 0 {
			t.Errorf("%s was delivered %v before its time", d.Topic, -late)
		}
	}
	if place["later.first"] > place["later.second"] {
		t.Errorf("those of one time came in the order %+v, want that of their emits", place)
	}
}

// awaitSent commits a message behind all and waits for it: whatever else was to come
// has come then.
func (s *system) awaitSent(t *testing.T, r *recorder, n int) {
	t.Helper()
	s.emit(t, outbox.Event{Topic: "last"})
	r.await(n + 1)
	s.awaitPending(t, 0)
	if got := r.deliveries(); len(got) != n+1 {
		t.Errorf("%d messages were delivered, want %d", len(got), n+1)
	}
}

// TestK06_ScheduledOutlivesTheRelay: nothing of it is in a relay's memory.
func TestK06_ScheduledOutlivesTheRelay(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		first := s.startRelay(t, relay.Config{})
		due := time.Now().Add(time.Second)
		for i := range 3 {
			s.emit(t, outbox.Event{Topic: fmt.Sprint("later.", i), Key: "a", DeliverAt: due.Add(time.Duration(2-i) * 100 * time.Millisecond)})
		}
		first.stop()
		s.startRelay(t, relay.Config{})
		r.awaitWithin(3, time.Second+soon)
		for i, d := range r.deliveries() {
			if want := fmt.Sprint("later.", 2-i); d.Topic != want {
				t.Errorf("delivery %d is %s, want %s: by their times", i, d.Topic, want)
			}
		}
	})
}
