package acceptance

import (
	"context"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

// TestBrokerAway has the broker go away for long while messages are emitted: no
// attempt is counted, nothing becomes a dead letter, and when it is back all is
// delivered, in order.
func TestBrokerAway(t *testing.T) {
	t.Run("HalfAnHour", func(t *testing.T) { synctest.Test(t, awayForHalfAnHour) })
	t.Run("Servers", func(t *testing.T) {
		t.Parallel()
		away := 8 * time.Second
		if os.Getenv("OUTBOX_SOAK") != "" {
			away = time.Minute
		}
		awayInEarnest(t, away)
	})
}

// wantUntouched checks that nothing of a store was refused or has died.
func wantUntouched(t *testing.T, admin store.Admin, pending int) {
	t.Helper()
	list := listAll(t, admin, store.Query{State: store.Pending})
	if len(list) != pending {
		t.Errorf("%d messages are pending, want %d", len(list), pending)
	}
	for _, m := range list {
		if m.Attempts != 0 || m.LastError != "" || m.RetryIn > 0 {
			t.Fatalf("a message has %d attempts, waits for %v, last error %q", m.Attempts, m.RetryIn, m.LastError)
		}
	}
	stats, err := admin.Stats(context.Background())
	must(t, err)
	if stats.Dead != 0 || stats.Waiting+stats.Blocked != 0 {
		t.Errorf("%d dead letters, %d waiting, %d blocked, want none", stats.Dead, stats.Waiting, stats.Blocked)
	}
}

func awayForHalfAnHour(t *testing.T) {
	const keys = 20
	s, b := memstore.New(nil), membroker.New()
	bed := newBed(t, relay.Skip)
	b.Declare("all", "#")
	ob := outbox.New(s)
	bed.emit = func(steps ...step) error {
		return ob.InTx(t.Context(), func(tx *memstore.Tx) error { return ob.Emit(t.Context(), tx, events(steps)...) })
	}
	var every []string
	for i := range keys {
		every = append(every, fmt.Sprint("k", i))
	}
	r := runRelay(t, s, b.Publisher(), relay.Config{}, func() {})
	bed.next(harmless, every...)
	time.Sleep(time.Minute)
	b.SetDown(true)
	for range 30 {
		bed.next(harmless, every...)
		time.Sleep(time.Minute)
	}
	wantUntouched(t, s, 30*keys)
	b.SetDown(false)
	time.Sleep(30 * time.Second)
	got := course{}
	for _, m := range b.Messages("all") {
		got[m.Key] = append(got[m.Key], decodeStep(t, m.Payload).N)
	}
	if fmt.Sprint(got) != fmt.Sprint(bed.emitted) {
		t.Errorf("delivered %v, want %v", got, bed.emitted)
	}
	wantUntouched(t, s, 0)
	r.stop()
}

func awayInEarnest(t *testing.T, away time.Duration) {
	const keys = 20
	s := newSystem(newPostgres(t), newRabbit(t, true))
	recorded := s.startWorker(t)
	relays := s.startRelays(t, 2, func(int) relay.Config { return relay.Config{} })
	s.placeOrders(t, "before", keys, 5)
	s.judge(t, recorded)
	s.kill()
	emitted := 0
	for end := time.Now().Add(away); time.Now().Before(end); emitted++ {
		s.placeOrders(t, fmt.Sprint("during", emitted), keys, 1)
		time.Sleep(100 * time.Millisecond)
	}
	wantUntouched(t, s.database.(*postgres).store, emitted*keys)
	began := time.Now()
	s.start()
	repeats := s.judge(t, recorded)
	t.Logf("away for %v: %d messages emitted meanwhile, drained %v after the start, %d repeats", away, emitted*keys, time.Since(began).Round(10*time.Millisecond), repeats)
	wantUntouched(t, s.database.(*postgres).store, 0)
	for _, one := range relays {
		one.alive()
	}
}
