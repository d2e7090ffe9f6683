package acceptance

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// TestPurgeSentLeavesTheUnsentAlone: whatever age and limit say, only what was sent
// goes.
func TestPurgeSentLeavesTheUnsentAlone(t *testing.T) {
	t.Parallel()
	const keys, each = 20, 50
	s := newSystem(newPostgres(t), newRabbit(t, false))
	p := s.database.(*postgres)
	r := s.startWorker(t)
	theRelay := s.startRelay(t, relay.Config{Keep: relay.Forever, MaxAttempts: 1})
	s.placeOrders(t, "sent", keys, each)
	s.judge(t, r)
	theRelay.stop()
	s.placeOrders(t, "unsent", keys, 5)
	must(t, p.inTx(func(tx transaction) error {
		return tx.emit(outbox.Event{Topic: "later.on", Key: "k", Payload: 1, DeliverAt: time.Now().Add(time.Hour)})
	}))
	before := map[store.State][]store.Stored{}
	for _, state := range []store.State{store.Pending, store.Scheduled, store.Dead} {
		before[state] = listAll(t, p.store, store.Query{State: state, NoPayload: true})
	}
	if n := len(before[store.Pending]); n != keys*5 {
		t.Fatalf("%d messages are pending, want %d", n, keys*5)
	}
	purged := 0
	for {
		n, err := p.store.PurgeSent(t.Context(), 0, 77)
		must(t, err)
		if purged += n; n == 0 {
			break
		}
	}
	if purged != keys*each {
		t.Errorf("%d messages were purged, want the %d that were sent", purged, keys*each)
	}
	_, err := p.store.PurgeSent(t.Context(), 48*time.Hour, 1_000_000)
	must(t, err)
	for state, want := range before {
		got := listAll(t, p.store, store.Query{State: state, NoPayload: true})
		same := func(a, b store.Stored) bool { return a.ID == b.ID && a.Place == b.Place }
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%d messages are %s, want the %d of before", len(got), state, len(want))
		}
	}
}

// keepRows puts rows into the history, half of them into a partition of three days
// ago and half of two hours ago.
func (l *loaded) keepRows(n int) {
	l.t.Helper()
	ctx := context.Background()
	_, err := l.pg.store.PurgeSent(ctx, 24*time.Hour, 1) // makes the partitions
	must(l.t, err)
	day := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3)
	_, err = l.pg.pool.Exec(ctx, fmt.Sprintf(`CREATE TABLE outbox.sent_%s PARTITION OF outbox.sent FOR VALUES FROM ('%s') TO ('%s')`,
		day.Format("20060102"), day.Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339)))
	must(l.t, err)
	for _, at := range []time.Time{day.Add(time.Hour), time.Now().Add(-2 * time.Hour)} {
		_, err = l.pg.pool.Exec(ctx, `
			INSERT INTO outbox.sent (position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at, route, attempts, last_error, sent_at)
			SELECT -i, gen_random_uuid(), 'old.one', 'k' || i % 1000, '', '', '', 'application/octet-stream', '{}', convert_to(repeat('x', 250), 'UTF8'), $2, '', 0, '', $2
			FROM generate_series(1, $1::int) AS i`, n/2, at)
		must(l.t, err)
	}
	_, err = l.pg.pool.Exec(ctx, `ANALYZE outbox.sent`)
	must(l.t, err)
}

// emitRate measures emits, in transactions of ten messages from four goroutines.
func (l *loaded) emitRate(n int) float64 {
	l.t.Helper()
	payload := make([]byte, 250)
	began := time.Now()
	var emitting sync.WaitGroup
	for range 4 {
		emitting.Go(func() {
			for range n / 40 {
				events := make([]outbox.Event, 10)
				for i := range events {
					events[i] = outbox.Event{Topic: "emitted.one", Key: fmt.Sprint("k", i), Payload: payload}
				}
				err := l.pg.outbox.InTx(context.Background(), func(tx pgx.Tx) error {
					return l.pg.outbox.Emit(context.Background(), tx, events...)
				})
				if err != nil {
					l.t.Error(err)
				}
			}
		})
	}
	emitting.Wait()
	return float64(n/40*40) / time.Since(began).Seconds()
}

// purger deletes history in steps, until there is nothing left, and notes how long
// each takes.
type purger struct {
	steps []time.Duration
	rows  int
}

func (p *purger) step(t testing.TB, admin store.Admin, age time.Duration, limit int) int {
	began := time.Now()
	n, err := admin.PurgeSent(context.Background(), age, limit)
	if err != nil {
		t.Error(err)
	}
	p.steps = append(p.steps, time.Since(began))
	p.rows += n
	return n
}

func (p *purger) report(t testing.TB, what string) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(p.steps))
	t.Logf("%s: %d rows in %d steps, median %v, the longest %v", what, p.rows, len(sorted), sorted[len(sorted)/2], sorted[len(sorted)-1])
}

// TestSoakRetention compares emits and drains with a small history, with a great one
// and with one that is being deleted.
func TestSoakRetention(t *testing.T) {
	t.Parallel()
	n, rounds, kept := scale(1000, 20_000), scale(1, 5), scale(10_000, 1_000_000)
	small, great, shrinking := newLoaded(t), newLoaded(t), newLoaded(t)
	for _, l := range []*loaded{great, shrinking} {
		l.keepRows(kept)
	}
	for _, l := range []*loaded{small, great, shrinking} {
		l.relay(relay.Config{Keep: relay.Forever})
	}
	var emits, drains [3][]float64
	chunks := &purger{}
	emitted := 0
	for i := range rounds {
		emitted += n / 40 * 40
		for j, l := range []*loaded{small, great, shrinking} {
			stop := func() {}
			if l == shrinking {
				stop = chunks.inBackground(t, l.pg.store)
			}
			emits[j] = append(emits[j], l.emitRate(n))
			l.await("emitted.one", emitted)
			drains[j] = append(drains[j], l.round(i, n))
			stop()
		}
	}
	for j, what := range []string{1: "a history of %d rows", 2: "a history of %d rows that is being deleted"} {
		if what == "" {
			continue
		}
		ratio(t, "emit, with "+fmt.Sprintf(what, kept), emits[0], emits[j])
		ratio(t, "drain, with "+fmt.Sprintf(what, kept), drains[0], drains[j])
	}
	for chunks.step(t, shrinking.pg.store, time.Hour, 1000) > 0 {
		continue
	}
	chunks.report(t, "in chunks of up to 1,000")
	drop := &purger{}
	drop.step(t, great.pg.store, 24*time.Hour, 1000)
	drop.report(t, "with a partition of half of it")
	if left, err := shrinking.pg.store.CountSent(t.Context(), time.Hour); err != nil || left != 0 {
		t.Errorf("%d rows of the history are older than an hour, %v", left, err)
	}
}

// inBackground deletes a thousand rows at a time of what is older than an hour, with
// the pauses that a relay makes, until stopped.
func (p *purger) inBackground(t testing.TB, admin store.Admin) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if p.step(t, admin, time.Hour, 1000) == 0 {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(max(10*time.Millisecond, 9*p.steps[len(p.steps)-1])):
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}
