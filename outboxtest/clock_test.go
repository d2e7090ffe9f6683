package outboxtest_test

import (
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestClockStandsUntilItIsSet(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := outboxtest.NewClock(at)
	if got := clock.Now(); !got.Equal(at) {
		t.Errorf("shows %s", got)
	}
	clock.Advance(time.Hour)
	clock.Advance(-time.Minute)
	if got := clock.Now(); !got.Equal(at.Add(59 * time.Minute)) {
		t.Errorf("after Advance it shows %s", got)
	}
	clock.Set(at)
	if got := clock.Now(); !got.Equal(at) {
		t.Errorf("after Set it shows %s", got)
	}
}

func TestClockBearsConcurrentUse(t *testing.T) {
	t.Parallel()
	clock := outboxtest.NewClock(time.Unix(0, 0))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				clock.Advance(time.Second)
				clock.Now()
			}
		})
	}
	all.Wait()
	if got := clock.Now().Unix(); got != 800 {
		t.Errorf("shows %d s, want 800", got)
	}
}

func TestClockRulesTheTimeOfEmits(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := outboxtest.NewClock(at)
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec, outbox.WithClock(clock.Now))
	emit(t, ob, new(sql.Tx), "a")
	clock.Advance(time.Hour)
	emit(t, ob, new(sql.Tx), "b")
	for i, m := range rec.All() {
		if want := at.Add(time.Duration(i) * time.Hour); !m.CreatedAt.Equal(want) {
			t.Errorf("message %d was created at %s, want %s", i, m.CreatedAt, want)
		}
	}
}
