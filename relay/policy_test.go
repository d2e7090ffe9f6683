package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// emitEvents emits events in one transaction.
func (b *bench) emitEvents(events ...outbox.Event) {
	b.t.Helper()
	tx, err := b.store.Begin(b.t.Context())
	if err == nil {
		err = b.outbox.Emit(b.t.Context(), tx, events...)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.commit(tx)
}

// stored returns the messages of a state.
func (b *bench) stored(state store.State) []store.Stored {
	b.t.Helper()
	list, err := b.store.List(b.t.Context(), store.Query{State: state, Limit: 1 << 30})
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// dead returns the dead letters' payloads and reasons, in the order of positions.
func (b *bench) dead() (list []string) {
	b.t.Helper()
	letters := b.stored(store.Dead)
	slices.SortFunc(letters, func(a, b store.Stored) int { return int(a.Position - b.Position) })
	for _, d := range letters {
		list = append(list, fmt.Sprintf("%s %s", d.Payload, d.Reason))
	}
	return list
}

func (b *bench) wantDead(want ...string) {
	b.t.Helper()
	if got := b.dead(); !slices.Equal(got, want) {
		b.t.Fatalf("the dead letters are %q, want %q", got, want)
	}
}

// wantOf checks what was delivered of a key.
func (b *bench) wantOf(key string, want ...int) {
	b.t.Helper()
	if got := b.delivered()[key]; fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Fatalf("of key %s were delivered %v, want %v", key, got, want)
	}
}

// redrive makes all dead letters pending again.
func (b *bench) redrive() {
	b.t.Helper()
	var places []int64
	for _, d := range b.stored(store.Dead) {
		places = append(places, d.Place)
	}
	if _, err := b.store.Redrive(b.t.Context(), places); err != nil {
		b.t.Fatal(err)
	}
}

// refuse has the broker refuse messages of key k with one of these payloads, until
// the function that it returns is called.
func (b *bench) refuse(err error, payloads ...string) (heal func()) {
	var healed atomic.Bool
	b.broker.Refuse(func(m *outbox.Message) error {
		if !healed.Load() && m.Key == "k" && slices.Contains(payloads, string(m.Payload)) {
			return err
		}
		return nil
	})
	return func() { healed.Store(true) }
}

func (b *bench) emitN(n int, key string) {
	b.t.Helper()
	for range n {
		b.emitKey("t", key)
	}
}

func policy(p relay.Policy) []relay.TopicPolicy {
	return []relay.TopicPolicy{{Pattern: "other", Policy: relay.Block}, {Pattern: "t", Policy: p}, {Pattern: "#", Policy: relay.Block}}
}

func TestSkippedMessageLetsItsSuccessorsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.refuse(errors.New("not this one"), "2")
		b.emitN(4, "k")
		b.emitN(3, "l")
		r, stop := b.start(&relay.Config{MaxAttempts: 3})
		time.Sleep(time.Second)
		b.wantOf("k", 1)
		b.wantOf("l", 1, 2, 3)
		time.Sleep(10 * time.Second)
		b.wantOf("k", 1, 3, 4)
		b.wantDead("2 exhausted")
		d := b.stored(store.Dead)[0]
		if d.Attempts != 3 || !strings.Contains(d.LastError, "not this one") || d.Parked {
			t.Errorf("the dead letter has %d attempts, the error %q and parks its key: %t", d.Attempts, d.LastError, d.Parked)
		}
		if s := r.Stats(); s.Dead != 1 || s.Refused != 3 || s.Failed != 3 {
			t.Errorf("the figures are %+v, want 1 dead and 3 refused", s)
		}
		b.wantEmpty()
		b.stopped(stop)
	})
}

func TestTenAttemptsAreTheDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("k")
		b.emitN(2, "k")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- relay.New(b.store, p, quiet()).Run(ctx) }()
		time.Sleep(time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		b.wantDead("1 exhausted", "2 exhausted")
		if n := b.stored(store.Dead)[0].Attempts; n != 10 {
			t.Fatalf("%d attempts, want 10", n)
		}
	})
}

func TestInvalidMessageIsDeadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.refuse(outbox.Invalid(errors.New("too large")), "1")
		b.emitN(3, "k")
		_, stop := b.start(nil)
		time.Sleep(100 * time.Millisecond)
		b.wantOf("k", 2, 3)
		b.wantDead("1 invalid")
		b.stopped(stop)
	})
}

// TestSuccessorsWaitUntilADeathIsRecorded: the message is tried again after a crash,
// and must not be behind them then.
func TestSuccessorsWaitUntilADeathIsRecorded(t *testing.T) {
	for _, how := range []string{"invalid", "expired"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				if how == "invalid" {
					b.refuse(outbox.Invalid(errTampered), "1")
					b.emitN(3, "k")
				} else {
					b.next["k"] = 3
					b.emitEvents(outbox.Event{Topic: "t", Key: "k", Payload: []byte("1"), ExpiresAt: time.Now().Add(time.Second)},
						outbox.Event{Topic: "t", Key: "k", Payload: []byte("2")}, outbox.Event{Topic: "t", Key: "k", Payload: []byte("3")})
					time.Sleep(2 * time.Second)
				}
				// The first relay dies while it records the death: done or not.
				for _, written := range []bool{false, true} {
					dying := newMortal(b.store)
					dying.before = func(ctx context.Context, op string) error {
						if op == "fail" && !written {
							dying.gate.close()
						}
						return dying.gate.pass(ctx)
					}
					dying.after = func(op string) error {
						if op == "fail" && written {
							dying.gate.close()
							return errTampered
						}
						return nil
					}
					_, stopDying := b.startOn(dying, b.broker.Publisher(), &relay.Config{DrainTimeout: time.Millisecond})
					time.Sleep(time.Minute)
					if !written {
						b.wantOf("k")
						b.wantDead()
					}
					_ = stopDying()
				}
				_, stop := b.start(nil)
				time.Sleep(time.Minute)
				b.wantDead("1 " + how)
				b.wantOf("k", 2, 3)
				b.stopped(stop)
			})
		})
	}
}

func TestParkedKeyFollowsItsDeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		heal := b.refuse(errTampered, "2")
		b.emitN(4, "k")
		b.emitN(4, "l")
		config := &relay.Config{MaxAttempts: 2, Policies: policy(relay.Park)}
		_, stop := b.start(config)
		time.Sleep(10 * time.Second)
		b.wantOf("k", 1)
		b.wantOf("l", 1, 2, 3, 4)
		b.wantDead("2 exhausted", "3 parked", "4 parked")
		b.emitKeys("t", "k", "l")
		time.Sleep(time.Second)
		b.wantDead("2 exhausted", "3 parked", "4 parked", "5 parked")
		b.stopped(stop)

		heal()
		_, stop = b.start(config) // it must ask which keys are parked
		b.emitKeys("t", "k", "l")
		time.Sleep(time.Second)
		b.wantOf("k", 1)
		b.wantOf("l", 1, 2, 3, 4, 5, 6)
		b.redrive()
		b.emitKeys("t", "k", "l")
		time.Sleep(5 * time.Second)
		b.wantDead()
		b.wantOf("k", 1, 2, 3, 4, 5, 6, 7)
		b.wantEmpty()
		b.stopped(stop)
	})
}

func TestDiscardedParkedKeyIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.refuse(outbox.Invalid(errTampered), "1")
		b.emitN(2, "k")
		_, stop := b.start(&relay.Config{Policies: policy(relay.Park)})
		time.Sleep(time.Second)
		for _, d := range b.stored(store.Dead) {
			if _, err := b.store.Discard(t.Context(), []int64{d.Place}); err != nil {
				t.Fatal(err)
			}
		}
		b.emitKey("t", "k")
		time.Sleep(3 * time.Second)
		b.wantOf("k", 3)
		b.stopped(stop)
	})
}

func TestParkingWithoutAKeyIsSkipping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Refuse(func(m *outbox.Message) error {
			if string(m.Payload) == "1" {
				return outbox.Invalid(errTampered)
			}
			return nil
		})
		b.emitN(3, "")
		_, stop := b.start(&relay.Config{Policies: policy(relay.Park)})
		time.Sleep(time.Second)
		b.wantOf("", 2, 3)
		if d := b.stored(store.Dead); len(d) != 1 || d[0].Parked {
			t.Fatalf("the dead letters are %+v, want one that parks nothing", d)
		}
		b.stopped(stop)
	})
}

func TestBlockedMessageWaitsUntilItIsRetried(t *testing.T) {
	for _, key := range []string{"k", ""} {
		t.Run("key "+key, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var healed atomic.Bool
				b.broker.Refuse(func(m *outbox.Message) error {
					if !healed.Load() && m.Key == key && string(m.Payload) == "2" {
						return outbox.Invalid(errTampered)
					}
					return nil
				})
				b.emitN(3, key)
				config := &relay.Config{Policies: policy(relay.Block)}
				for range 2 { // it survives the relay
					_, stop := b.start(config)
					time.Sleep(24 * time.Hour)
					if key == "" {
						b.wantOf(key, 1, 3)
					} else {
						b.wantOf(key, 1)
					}
					b.wantDead()
					b.stopped(stop)
				}
				row := b.pending()[0]
				if row.RetryIn != store.Never || row.Attempts != 1 || row.LastError == "" {
					t.Fatalf("it is pending with %d attempts, error %q, for %v, want one attempt and for ever", row.Attempts, row.LastError, row.RetryIn)
				}
				_, stop := b.start(config)
				time.Sleep(time.Minute)
				healed.Store(true)
				if n, err := b.store.Retry(t.Context(), []store.Ref{{Position: row.Position, ID: row.ID}}); n != 1 || err != nil {
					t.Fatalf("retried %d messages (%v), want 1", n, err)
				}
				time.Sleep(3 * time.Second)
				if key == "" {
					b.wantOf(key, 1, 3, 2)
				} else {
					b.wantOf(key, 1, 2, 3)
				}
				b.stopped(stop)
			})
		})
	}
}

func TestExpiredMessagesNeitherParkNorBlock(t *testing.T) {
	for _, p := range []relay.Policy{relay.Skip, relay.Park, relay.Block} {
		for _, why := range []string{"away", "refused", "paused"} {
			t.Run(fmt.Sprint(p, " ", why), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { expires(t, p, why) })
			})
		}
	}
}

// expires: the first of two messages cannot be sent until it expires.
func expires(t *testing.T, p relay.Policy, why string) {
	b := newBench(t)
	switch why {
	case "away":
		b.broker.SetDown(true)
	case "refused":
		b.refuse(errTampered, "1")
	case "paused":
		if _, err := b.store.Pause(t.Context(), store.Pause{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
	}
	r, stop := b.start(&relay.Config{RefusedBackoff: time.Hour, Policies: policy(p)})
	b.emitEvents(outbox.Event{Topic: "t", Key: "k", Payload: []byte("1"), ExpiresAt: time.Now().Add(time.Minute)},
		outbox.Event{Topic: "u", Key: "k", Payload: []byte("2")})
	time.Sleep(50 * time.Second)
	b.wantDead()
	b.wantOf("k")
	time.Sleep(11 * time.Second)
	b.broker.SetDown(false)
	time.Sleep(15 * time.Second)
	b.wantDead("1 expired")
	b.wantOf("k", 2)
	if s := r.Stats(); s.Dead != 1 || s.Expired != 1 {
		t.Errorf("the figures are %+v, want one expired", s)
	}
	b.stopped(stop)
}
