package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

// bench is an outbox in memory, a broker in memory, and the relays between them.
type bench struct {
	t      *testing.T
	store  *memstore.Store
	outbox *outbox.Outbox[*memstore.Tx]
	broker *membroker.Broker
	next   map[string]int
	extra  int // bytes more of each payload
	watch  []*relay.Watch
}

func newBench(t *testing.T) *bench {
	s := memstore.New(nil)
	b := &bench{t: t, store: s, outbox: outbox.New(s), broker: membroker.New(), next: map[string]int{}}
	b.broker.Declare("all", "#")
	return b
}

// emit emits n messages, spread over keys, each numbered within its key.
func (b *bench) emit(n, keys int) {
	b.t.Helper()
	for i := range n {
		b.emitKey("t", fmt.Sprint("k", i%keys))
	}
}

func (b *bench) emitKey(topic, key string) { b.emitKeys(topic, key) }

// emitKeys emits one message of each of keys in one transaction.
func (b *bench) emitKeys(topic string, keys ...string) {
	b.t.Helper()
	b.commit(b.begin(topic, keys...))
}

// begin emits one message of each of keys in a transaction that stays open.
func (b *bench) begin(topic string, keys ...string) *memstore.Tx {
	b.t.Helper()
	events := make([]outbox.Event, len(keys))
	for i, key := range keys {
		b.next[key]++
		payload := strconv.AppendInt(make([]byte, 0, 8+b.extra), int64(b.next[key]), 10)
		if b.extra > 0 {
			payload = append(append(payload, ' '), make([]byte, b.extra)...)
		}
		events[i] = outbox.Event{Topic: topic, Key: key, Payload: payload}
	}
	tx, err := b.store.Begin(b.t.Context())
	if err == nil {
		err = b.outbox.Emit(b.t.Context(), tx, events...)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return tx
}

func (b *bench) commit(tx *memstore.Tx) {
	b.t.Helper()
	if err := tx.Commit(); err != nil {
		b.t.Fatal(err)
	}
}

// emitMany emits n messages, spread over keys, a thousand in a transaction.
func (b *bench) emitMany(n, keys int) {
	b.t.Helper()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("k", i%keys))
		if len(names) == 1000 || i == n-1 {
			b.emitKeys("t", names...)
			names = names[:0]
		}
	}
}

// start runs a relay and returns the function that stops it and returns its error.
func (b *bench) start(config *relay.Config) (r *relay.Relay, stop func() error) {
	return b.startWith(b.broker.Publisher(), config)
}

func (b *bench) startWith(p outbox.Publisher, config *relay.Config) (r *relay.Relay, stop func() error) {
	return b.startOn(b.store, p, config)
}

func (b *bench) startOn(s relay.Store, p outbox.Publisher, config *relay.Config) (r *relay.Relay, stop func() error) {
	var c relay.Config
	if config != nil {
		c = *config
	}
	c.Logger = slog.New(slog.DiscardHandler)
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 1_000_000 // most tests refuse a message until they have seen enough
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	r = relay.New(s, p, &c)
	done := make(chan error, 1)
	watch, run := r.Watched()
	b.watch = append(b.watch, watch)
	go func() { done <- run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.t.Cleanup(func() { _ = stop() })
	return r, stop
}

// delivered returns what the broker holds: for each key the numbers in order.
func (b *bench) delivered() map[string][]string {
	got := map[string][]string{}
	for _, m := range b.broker.Messages("all") {
		got[m.Key] = append(got[m.Key], string(m.Payload))
	}
	return got
}

// wantAll checks that all that was emitted was delivered once and in order.
func (b *bench) wantAll() {
	b.t.Helper()
	got := b.delivered()
	for key, n := range b.next {
		want := make([]string, n)
		for i := range want {
			want[i] = fmt.Sprint(i + 1)
		}
		if fmt.Sprint(got[key]) != fmt.Sprint(want) {
			b.t.Fatalf("key %s: delivered %v, want 1 to %d", key, got[key], n)
		}
	}
}

func (b *bench) count() int { return len(b.broker.Messages("all")) }

// wantEmpty checks that the relays hold nothing, once all is delivered.
func (b *bench) wantEmpty() {
	b.t.Helper()
	for i, w := range b.watch {
		if held := w.Held(); held != (relay.Held{}) {
			b.t.Errorf("relay %d holds %+v, want nothing", i, held)
		}
	}
}

func (b *bench) stopped(stop func() error) {
	b.t.Helper()
	if err := stop(); err != nil {
		b.t.Fatal(err)
	}
}

func TestDeliversOnceAndInOrder(t *testing.T) {
	for _, relays := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(relays), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.emit(5000, 100)
				var stops []func() error
				for range relays {
					_, stop := b.start(nil)
					stops = append(stops, stop)
				}
				b.emit(5000, 70)
				time.Sleep(time.Minute)
				b.wantAll()
				for _, stop := range stops {
					b.stopped(stop)
				}
			})
		})
	}
}

func TestUnavailableBrokerCostsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		_, stop := b.start(nil)
		b.emit(500, 10)
		time.Sleep(time.Second)
		b.broker.SetDown(true)
		b.emit(500, 10)
		time.Sleep(30 * time.Minute)
		b.broker.SetDown(false)
		time.Sleep(time.Minute)
		b.wantAll()
		for _, m := range b.broker.Messages("all") {
			if m.Attempts != 0 {
				t.Fatalf("message has %d attempts after the broker was away", m.Attempts)
			}
		}
		b.stopped(stop)
	})
}

func TestRefusedMessageHoldsItsKeyAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var refusing atomic.Bool
		refusing.Store(true)
		b.broker.Refuse(func(m *outbox.Message) error {
			if refusing.Load() && m.Key == "k0" {
				return errors.New("not this one")
			}
			return nil
		})
		_, stop := b.start(nil)
		b.emit(1000, 10)
		time.Sleep(10 * time.Minute)
		if got := b.count(); got != 900 {
			t.Fatalf("%d messages delivered, want the 900 of the other keys", got)
		}
		b.stopped(stop)
		pages, err := b.store.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if row := pages[0].Rows[0]; row.Attempts < 5 || row.LastError == "" {
			t.Fatalf("attempts %d and last error %q, want those of ten minutes", row.Attempts, row.LastError)
		}
		_, stop = b.start(nil)
		time.Sleep(time.Second)
		refusing.Store(false)
		time.Sleep(10 * time.Minute)
		b.wantAll()
		b.stopped(stop)
	})
}

func TestStopWaitsForTheAnswersToWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emit(1000, 1000)
		b.broker.Hold()
		_, stop := b.start(&relay.Config{Window: 100})
		synctest.Wait()
		if held := b.broker.Held(); held != 100 {
			t.Fatalf("%d messages unanswered, want the window of 100", held)
		}
		done := make(chan error, 1)
		go func() { done <- stop() }()
		synctest.Wait()
		b.broker.Release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n := b.count(); n != 100 {
			t.Fatalf("%d messages were delivered, want the 100 that were sent", n)
		}
		_, stop = b.start(nil)
		time.Sleep(time.Minute)
		b.wantAll()
		b.stopped(stop)
	})
}

func TestStopGivesUpOnABrokerThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emit(10, 10)
		b.broker.Hold()
		_, stop := b.start(nil)
		synctest.Wait()
		began := time.Now()
		if err := stop(); err == nil {
			t.Fatal("stopped with messages unanswered, and did not say so")
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Fatalf("stopped after %v, want the drain timeout of 10 s", took)
		}
	})
}
