package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

func TestScheduledMessagesAreSentWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		_, stop := b.startWith(got, nil)
		time.Sleep(10 * time.Second)
		due := time.Now().Add(90*time.Minute + 300*time.Millisecond)
		for range 3 {
			var events []outbox.Event
			for range 1000 {
				b.next["k"]++
				events = append(events, outbox.Event{Topic: "t", Key: "k", Payload: fmt.Appendf(nil, "%d", b.next["k"]), DeliverAt: due})
			}
			b.emitEvents(events...)
		}
		time.Sleep(time.Until(due) - time.Millisecond)
		if n := got.count(); n != 0 {
			t.Fatalf("%d messages were sent before they were due", n)
		}
		time.Sleep(100 * time.Millisecond)
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}

// TestIdleRelayAsksForScheduledMessagesOnceAPollInterval.
func TestIdleRelayAsksForScheduledMessagesOnceAPollInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := &counting{Store: b.store}
		b.emitEvents(outbox.Event{Topic: "t", Payload: []byte("1"), DeliverAt: time.Now().Add(time.Hour)})
		_, stop := b.startOn(s, b.broker.Publisher(), nil)
		time.Sleep(100*time.Second + time.Millisecond)
		if n := s.promotes.Load(); n > 101 {
			t.Fatalf("asked %d times in 100 s", n)
		}
		if n := len(s.purges); n != 0 {
			t.Fatalf("purged %d times though there is no history", n)
		}
		b.stopped(stop)
	})
}

// counting counts what is asked of a store.
type counting struct {
	relay.Store
	promotes atomic.Int64
	mu       sync.Mutex
	purges   []time.Duration
}

func (s *counting) Promote(ctx context.Context, limit int) (store.Promotion, error) {
	s.promotes.Add(1)
	return s.Store.Promote(ctx, limit)
}

func (s *counting) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	s.mu.Lock()
	s.purges = append(s.purges, age)
	s.mu.Unlock()
	return s.Store.PurgeSent(ctx, age, limit)
}

func TestHistoryIsKeptAsLongAsIsSaid(t *testing.T) {
	for _, keep := range []time.Duration{0, time.Hour, relay.Forever} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				s := &counting{Store: b.store}
				_, stop := b.startOn(s, b.broker.Publisher(), &relay.Config{Keep: keep})
				b.emitMany(2500, 10)
				time.Sleep(time.Minute)
				want := 2500
				if keep == 0 {
					want = 0
				}
				if n := len(b.stored(store.Sent)); n != want {
					t.Fatalf("%d messages are in the history, want %d", n, want)
				}
				time.Sleep(30 * time.Minute)
				b.emitMany(10, 10)
				time.Sleep(28 * time.Minute)
				if n := len(b.stored(store.Sent)); keep != 0 && n != want+10 {
					t.Fatalf("%d messages are in the history, want %d", n, want+10)
				}
				time.Sleep(3 * time.Minute)
				if n := len(b.stored(store.Sent)); keep == time.Hour && n != 10 {
					t.Fatalf("%d messages are in the history, want those of the last hour", n)
				}
				time.Sleep(5 * time.Hour)
				if n := len(b.stored(store.Sent)); keep == relay.Forever && n != 2510 || keep != relay.Forever && n != 0 {
					t.Fatalf("%d messages are in the history five hours later", n)
				}
				b.stopped(stop)
				if keep != 0 && len(s.purges) == 0 {
					t.Fatal("the store was never asked to purge")
				}
			})
		})
	}
}

func TestTransformChangesACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		tries := 0
		b.broker.Refuse(func(*outbox.Message) error {
			if tries++; tries < 3 {
				return errTampered
			}
			return nil
		})
		b.emitEvents(outbox.Event{Topic: "t", Key: "k", Headers: map[string]string{"a": "b"}, Payload: []byte("1")})
		_, stop := b.start(&relay.Config{RefusedBackoff: time.Millisecond, Transform: func(_ context.Context, m *outbox.Message) error {
			m.Topic += ".new"
			m.Headers["a"] += "c"
			m.Payload[0]++
			return nil
		}})
		time.Sleep(time.Second)
		m := b.broker.Messages("all")[0]
		if m.Topic != "t.new" || m.Headers["a"] != "bc" || string(m.Payload) != "2" {
			t.Fatalf("sent topic %s, headers %v, payload %s, want each changed once", m.Topic, m.Headers, m.Payload)
		}
		b.stopped(stop)
	})
}

func TestTransformThatFails(t *testing.T) {
	for how, want := range map[string]store.Reason{"panics": store.Invalid, "fails": store.Invalid, "refuses": store.Exhausted, "is away": ""} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.emitN(2, "k")
				var healed atomic.Bool
				_, stop := b.start(&relay.Config{MaxAttempts: 2, Transform: func(_ context.Context, m *outbox.Message) error {
					switch {
					case healed.Load() || string(m.Payload) != "1":
						return nil
					case how == "panics":
						panic("at the disco")
					case how == "refuses":
						return outbox.Refused(errTampered)
					case how == "is away":
						return outbox.Unavailable(errTampered)
					}
					return errTampered
				}})
				time.Sleep(time.Minute)
				if want == "" {
					b.wantOf("k")
					healed.Store(true)
					time.Sleep(20 * time.Second)
					b.wantDead()
					b.wantOf("k", 1, 2)
				} else {
					b.wantDead("1 " + string(want))
					b.wantOf("k", 2)
					if text := b.stored(store.Dead)[0].LastError; !strings.Contains(text, "transform") || how == "panics" && !strings.Contains(text, "at the disco") {
						t.Errorf("the error is %q, want it to say what happened", text)
					}
				}
				b.stopped(stop)
			})
		})
	}
}

// TestTransformMayNotChangeWhatAMessageIs: its place in the outbox goes by that.
func TestTransformMayNotChangeWhatAMessageIs(t *testing.T) {
	for name, change := range map[string]func(m *outbox.Message){
		"ID":       func(m *outbox.Message) { m.ID = "0198f2a4-3c5e-7d61-9b1c-2f6a8e0d4c73" },
		"Position": func(m *outbox.Message) { m.Position++ },
		"Route":    func(m *outbox.Message) { m.Route = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.emitN(1, "k")
				r := relay.NewRouter(b.store, []relay.Route{{Name: "a"}}, &relay.Config{
					Logger: slog.New(slog.DiscardHandler),
					Transform: func(_ context.Context, m *outbox.Message) error {
						change(m)
						return nil
					},
				})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_ = r.Run(ctx)
				if dead := b.stored(store.Dead); len(dead) != 1 || dead[0].Reason != store.Invalid {
					t.Fatalf("the dead letters are %+v, want the message, as invalid", dead)
				}
			})
		})
	}
}

// TestTransformDoesNotSpeakForTheBroker: that it fails does not say that the broker
// is back.
func TestTransformDoesNotSpeakForTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var failing atomic.Bool
		r, stop := b.start(&relay.Config{Transform: func(context.Context, *outbox.Message) error {
			if failing.Load() {
				return outbox.Refused(errTampered)
			}
			return nil
		}})
		b.broker.SetDown(true)
		b.emitN(1, "k")
		time.Sleep(time.Minute)
		failing.Store(true)
		b.emitN(1, "l")
		time.Sleep(time.Minute)
		if s := r.Stats(); !s.BrokerDown || s.Outages != 1 {
			t.Fatalf("the figures are %+v, want a broker that is down since the first time", s)
		}
		b.stopped(stop)
	})
}

func TestWithdrawingAMessageThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.refuse(errTampered, "1")
		b.emitN(2, "k")
		_, stop := b.start(&relay.Config{RefusedBackoff: time.Hour})
		time.Sleep(time.Minute)
		id := b.pending()[0].ID
		if got := b.withdraw(id); got != store.Withdrawn {
			t.Fatalf("a message that was refused: %s, want it withdrawn", got)
		}
		time.Sleep(10 * time.Second)
		b.wantOf("k", 2)
		if n := b.store.Pending(); n != 0 {
			t.Fatalf("%d messages are pending", n)
		}
		b.stopped(stop)
	})
}

// withdraw goes on for 20 seconds at most.
func (b *bench) withdraw(id string) (w store.Withdrawal) {
	b.t.Helper()
	for range 200 {
		var err error
		if w, err = b.store.Withdraw(b.t.Context(), id, "me"); err != nil {
			b.t.Fatal(err)
		}
		if w != store.Asked {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := b.store.LetGo(b.t.Context(), "me"); err != nil {
		b.t.Fatal(err)
	}
	return w
}

// TestWhatMayHaveBeenSentIsNotWithdrawn: the answer was lost, or was still awaited
// when the relay stopped.
func TestWhatMayHaveBeenSentIsNotWithdrawn(t *testing.T) {
	for _, how := range []string{"unavailable", "unanswered"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.emitN(2, "k")
				first := true
				p := publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) {
					if how == "unavailable" && first {
						first = false
						done(outbox.Unavailable(errTampered))
					} else if how == "unavailable" {
						done(outbox.Refused(errTampered))
					}
				})
				_, stop := b.startWith(p, &relay.Config{RefusedBackoff: time.Hour, DrainTimeout: time.Second})
				time.Sleep(time.Minute)
				ids := []string{b.pending()[0].ID, b.pending()[1].ID}
				if how == "unanswered" {
					if w, err := b.store.Withdraw(t.Context(), ids[0], "me"); w != store.Asked || err != nil {
						t.Fatalf("in flight: %s (%v), want Asked", w, err)
					}
					_ = stop()
				}
				if got := b.withdraw(ids[0]); got != store.TooLate {
					t.Fatalf("a message that may have been sent: %s, want TooLate", got)
				}
				if got := b.withdraw(ids[1]); got != store.Withdrawn {
					t.Fatalf("the one behind it: %s, want it withdrawn", got)
				}
				_ = stop()
			})
		})
	}
}

// TestDoubtOutlivesANewToken: what is in flight when somebody changes the shard is
// still in doubt when the relay stops without an answer.
func TestDoubtOutlivesANewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.store = memstore.New(&memstore.Config{Shards: 1})
		b.outbox = outbox.New(b.store)
		b.emitN(1, "k")
		b.emitN(1, "")
		p := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			if m.Key == "" {
				done(outbox.Refused(errTampered))
			}
		})
		_, stop := b.startWith(p, &relay.Config{RefusedBackoff: time.Hour, DrainTimeout: time.Second})
		time.Sleep(time.Minute)
		held := b.pending()
		if _, err := b.store.Retry(t.Context(), []store.Ref{{Position: held[1].Position, ID: held[1].ID}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		_ = stop()
		if got := b.withdraw(held[0].ID); got != store.TooLate {
			t.Fatalf("a message that may have been sent: %s, want TooLate", got)
		}
	})
}

// TestRunsOfOneRelayAreApart: what the first left behind, when the database was away
// in its end, is in doubt for the second one.
func TestRunsOfOneRelayAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emitN(1, "k")
		away := false
		s := &tampered{Store: b.store, before: func(_ context.Context, op string) error {
			if away && op == "leave" {
				return errTampered
			}
			return nil
		}}
		p := publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) {
			if !away {
				done(outbox.Refused(errTampered))
			}
		})
		r := relay.New(s, p, &relay.Config{Logger: slog.New(slog.DiscardHandler), DrainTimeout: time.Second, RefusedBackoff: time.Hour})
		for _, away = range []bool{true, false} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_ = r.Run(ctx)
			cancel()
		}
		if got := b.withdraw(b.pending()[0].ID); got != store.TooLate {
			t.Fatalf("a message that may have been sent: %s, want TooLate", got)
		}
	})
}

func TestReadySaysWhatIsAmiss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var failing atomic.Pointer[string]
		no := ""
		failing.Store(&no)
		s := &tampered{Store: b.store, before: func(_ context.Context, op string) error {
			if op == *failing.Load() {
				return errTampered
			}
			return nil
		}}
		fail := func(op string) { failing.Store(&op) }
		fail("claim")
		r, stop := b.startOn(s, b.broker.Publisher(), nil)
		want := func(text string) {
			t.Helper()
			synctest.Wait()
			err := r.Ready()
			if text == "" && err != nil {
				t.Fatalf("ready says %q, want nil", err)
			}
			if text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
				t.Fatalf("ready says %v, want that %q", err, text)
			}
		}
		want("claim")
		fail("")
		time.Sleep(10 * time.Second)
		want("")
		fail("claim")
		time.Sleep(6 * time.Second)
		want("")
		time.Sleep(10 * time.Second)
		want("leases ended")
		fail("read")
		time.Sleep(20 * time.Second)
		want("")
		time.Sleep(20 * time.Second)
		want("could not be read")
		fail("")
		time.Sleep(time.Hour) // of idling
		want("")
		b.broker.SetDown(true)
		b.emitN(1, "k")
		time.Sleep(time.Second)
		want("broker is away")
		b.broker.SetDown(false)
		time.Sleep(11 * time.Second)
		want("")
		time.Sleep(time.Hour)
		b.broker.Hold()
		b.emitN(1, "k")
		want("")
		time.Sleep(29 * time.Second)
		want("")
		time.Sleep(3 * time.Second)
		want("1 wait for the broker")
		b.broker.Release()
		want("")
		time.Sleep(time.Hour)
		fail("settle")
		b.emitN(1, "k")
		time.Sleep(32 * time.Second)
		want("1 for the database")
		fail("")
		time.Sleep(10 * time.Second)
		want("")
		b.stopped(stop)
		want("not run")
	})
}

// TestReadyWhileMessagesWait: what waits for its time is not stuck.
func TestReadyWhileMessagesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.refuse(outbox.Invalid(errTampered), "1")
		b.pause(store.Pause{Topic: "paused"})
		b.emitKeys("paused", "a", "b")
		b.emitKeys("slow", "c", "d", "e")
		b.emitN(3, "k")
		r, stop := b.start(&relay.Config{Policies: policy(relay.Block), Rates: []relay.Rate{{Pattern: "slow", PerSecond: 0.001}}})
		for range 100 {
			time.Sleep(7 * time.Second)
			if err := r.Ready(); err != nil {
				t.Fatal(err)
			}
		}
		b.stopped(stop)
	})
}

func TestDeathsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, h := newBench(t), &mourner{}
		b.refuse(outbox.Invalid(errTampered), "1")
		b.emitN(2, "k")
		_, stop := b.start(&relay.Config{Policies: policy(relay.Park), Hooks: []relay.Hook{h}})
		time.Sleep(time.Second)
		b.stopped(stop)
		want := "[1 invalid message undeliverable: the test lets this fail 2 parked behind a dead letter of its key]"
		if got := fmt.Sprint(h.list); got != want {
			t.Fatalf("told of %s, want %s", got, want)
		}
	})
}

type mourner struct {
	mu   sync.Mutex
	list []string
}

func (h *mourner) Died(m *outbox.Message, reason store.Reason, err string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, fmt.Sprintf("%s %s %s", m.Payload, reason, err))
}
