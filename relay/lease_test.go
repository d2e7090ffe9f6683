package relay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// shares returns how many shards each relay says it owns.
func shares(relays []*relay.Relay) []int {
	var list []int
	for _, r := range relays {
		list = append(list, r.Stats().Shards)
	}
	return list
}

func TestRelaysShareTheShardsEvenly(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 7} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var relays []*relay.Relay
				var stops []func() error
				for range n {
					r, stop := b.start(nil)
					relays, stops = append(relays, r), append(stops, stop)
				}
				for left := n; left > 0; left-- {
					time.Sleep(20 * time.Second)
					have := shares(relays[n-left:])
					sum := 0
					for _, shards := range have {
						sum += shards
					}
					if sum != 64 || slices.Max(have)-slices.Min(have) > 1 {
						t.Fatalf("%d relays own %v shards, want 64 in even shares", left, have)
					}
					if alive := relays[n-1].Stats().Relays; alive != left {
						t.Fatalf("%d relays are said to be alive, want %d", alive, left)
					}
					b.stopped(stops[n-left])
				}
			})
		})
	}
}

func TestMaxShardsLimitsARelaysShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		small, stopSmall := b.start(&relay.Config{MaxShards: 5})
		large, stopLarge := b.start(nil)
		time.Sleep(20 * time.Second)
		if have := shares([]*relay.Relay{small, large}); !slices.Equal(have, []int{5, 59}) {
			t.Fatalf("the relays own %v shards, want 5 and 59", have)
		}
		b.stopped(stopSmall)
		b.stopped(stopLarge)
	})
}

// mortal lets every operation on the store hang from now on, as in a process that is
// gone, until the test ends.
type mortal struct {
	tampered
	gate gate
}

func newMortal(s relay.Store) *mortal {
	m := &mortal{tampered: tampered{Store: s}}
	m.before = func(ctx context.Context, _ string) error { return m.gate.pass(ctx) }
	return m
}

func TestAnotherRelayTakesOverWhenOneIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		got := newSink()
		dying := newMortal(b.store)
		var dead atomic.Bool
		deadPublisher := publisherFunc(func(ctx context.Context, m *outbox.Message, done func(error)) {
			if !dead.Load() {
				got.Publish(ctx, m, done)
			}
		})
		_, stopDying := b.startOn(dying, deadPublisher, &relay.Config{DrainTimeout: time.Second})
		r, stop := b.startWith(got, nil)
		b.emitMany(5000, 500)
		time.Sleep(5 * time.Second)
		dead.Store(true)
		dying.gate.close()
		b.emitMany(5000, 500)
		time.Sleep(13 * time.Second)
		if n := r.Stats().Shards; n != 64 {
			t.Fatalf("3 s after the leases of the dead relay expired the other owns %d shards, want 64", n)
		}
		got.wantOnce(t, b.next)
		b.stopped(stop)
		_ = stopDying()
	})
}

func TestShardsOfARelayThatNeverCameBackAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		claim, err := b.store.Claim(t.Context(), store.ClaimRequest{Owner: "gone", TTL: 10 * time.Second})
		if err != nil || len(claim.Leases) != 64 {
			t.Fatalf("claimed %d shards (%v), want 64", len(claim.Leases), err)
		}
		b.emitMany(1000, 100)
		began := time.Now()
		got := newSink()
		_, stop := b.startWith(got, nil)
		time.Sleep(12 * time.Second)
		got.wantOnce(t, b.next)
		if n := got.between(began, began.Add(10*time.Second)); n != 0 {
			t.Fatalf("%d messages were sent of shards that another owned", n)
		}
		b.stopped(stop)
	})
}

// TestRelaysComeAndGo: with all hand-overs in good order nothing is repeated.
func TestRelaysComeAndGo(t *testing.T) {
	for seed := range seeds(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { relaysComeAndGo(t, seed) })
		})
	}
}

func relaysComeAndGo(t *testing.T, seed uint64) {
	b, d, got := newBench(t), newDice(seed), newSink()
	late := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
		got.deliver(m)
		time.AfterFunc(d.wait(20*time.Millisecond), func() { done(nil) })
	})
	type running struct {
		relay *relay.Relay
		stop  func() error
	}
	var up []running
	var work []int64
	begin := func() {
		r, stop := b.startWith(late, &relay.Config{Window: 50})
		up = append(up, running{r, stop})
	}
	end := func(i int) {
		b.stopped(up[i].stop)
		work = append(work, up[i].relay.Stats().Confirmed)
		up = slices.Delete(up, i, i+1)
	}
	for range 60 {
		switch {
		case len(up) == 0 || len(up) < 4 && d.chance(0.4):
			begin()
		case d.chance(0.3):
			end(d.upTo(len(up)))
		}
		b.emitMany(200, 150)
		time.Sleep(d.wait(3 * time.Second))
	}
	begin()
	time.Sleep(time.Minute)
	for len(up) > 0 {
		end(0)
	}
	got.wantOnce(t, b.next)
	if did := len(slices.DeleteFunc(work, func(n int64) bool { return n == 0 })); did < 2 {
		t.Fatalf("of the relays %d did work", did)
	}
}

// TestHandOverSettlesBeforeItReleases: a shard changes hands only when nothing of
// it is unanswered or unsettled.
func TestHandOverSettlesBeforeItReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		slow := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			time.AfterFunc(30*time.Second, func() { got.deliver(m); done(nil) })
		})
		b.emitMany(640, 640)
		first, stopFirst := b.startWith(slow, nil)
		time.Sleep(time.Second)
		second, stopSecond := b.startWith(got, nil)
		time.Sleep(25 * time.Second)
		if n := second.Stats().Shards; n != 0 {
			t.Fatalf("%d shards changed hands before the answers came", n)
		}
		b.emitMany(640, 640)
		time.Sleep(10 * time.Second)
		if have := shares([]*relay.Relay{first, second}); !slices.Equal(have, []int{32, 32}) {
			t.Fatalf("the relays own %v shards, want 32 each", have)
		}
		time.Sleep(time.Minute)
		got.wantOnce(t, b.next)
		for i, r := range []*relay.Relay{first, second} {
			if r.Stats().Confirmed == 0 {
				t.Errorf("relay %d did no work", i)
			}
		}
		b.stopped(stopFirst)
		b.stopped(stopSecond)
	})
}

// TestRelayWhoseClaimsHangStopsPublishing: it does not know whether it still owns
// anything, and somebody else does by then.
func TestRelayWhoseClaimsHangStopsPublishing(t *testing.T) {
	for _, how := range []string{"hang", "fail"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { claimsStop(t, how) })
		})
	}
}

func claimsStop(t *testing.T, how string) {
	b, got, mine := newBench(t), newSink(), newSink()
	d := newDice(1)
	var paused atomic.Bool
	s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
		switch {
		case op != "claim" || !paused.Load():
			return nil
		case how == "hang":
			<-ctx.Done()
			return ctx.Err()
		}
		return errTampered
	}}
	// Ten messages a second: the backlog lasts.
	slow := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
		mine.note()
		got.deliver(m)
		time.AfterFunc(time.Second+d.wait(time.Millisecond), func() { done(nil) })
	})
	b.emitMany(30_000, 300)
	_, stop := b.startOn(s, slow, &relay.Config{Window: 10})
	time.Sleep(5 * time.Second)
	paused.Store(true)
	pausedAt := time.Now()
	other, stopOther := b.startWith(got, nil)
	time.Sleep(30 * time.Second)
	if n := mine.between(pausedAt.Add(9*time.Second), time.Now()); n != 0 {
		t.Fatalf("%d messages were published later than the lease could last", n)
	}
	if mine.between(pausedAt, pausedAt.Add(5*time.Second)) == 0 {
		t.Fatal("nothing was published while the lease lasted")
	}
	if n := other.Stats().Shards; n != 64 {
		t.Fatalf("the other relay owns %d shards, want all", n)
	}
	got.want(t, b.next)
	paused.Store(false)
	backAt := time.Now()
	time.Sleep(20 * time.Second)
	b.emitMany(3000, 300)
	time.Sleep(5 * time.Minute)
	got.want(t, b.next)
	if mine.between(backAt, time.Now()) == 0 {
		t.Fatal("the relay that was paused does no work")
	}
	if got.repeated() > 10 {
		t.Fatalf("%d messages were repeated, want at most the window", got.repeated())
	}
	b.stopped(stop)
	b.stopped(stopOther)
}

// TestLeaseIsLookedAtBeforeEachMessage: the relay is stopped inside of a batch, and
// goes on when another owns the shards.
func TestLeaseIsLookedAtBeforeEachMessage(t *testing.T) {
	for _, renewing := range []bool{false, true} {
		t.Run(fmt.Sprint("renewing ", renewing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stoppedInBatch(t, renewing) })
		})
	}
}

// stoppedInBatch: if renewing, the lease loop is back before the publisher is.
func stoppedInBatch(t *testing.T, renewing bool) {
	b, got := newBench(t), newSink()
	var claims, publishing gate
	s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
		if op != "claim" {
			return nil
		}
		return claims.pass(ctx)
	}}
	published := 0
	var mu sync.Mutex
	blocking := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
		mu.Lock()
		published++
		n := published
		mu.Unlock()
		got.deliver(m)
		if n == 5 {
			claims.close()
			publishing.close()
			_ = publishing.pass(context.Background())
		}
		done(nil)
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return published
	}
	b.emitMany(1000, 1000)
	_, stop := b.startOn(s, blocking, nil)
	time.Sleep(time.Second)
	if n := count(); n != 5 {
		t.Fatalf("%d messages were published, want to be in the fifth", n)
	}
	other, stopOther := b.startWith(got, nil)
	time.Sleep(20 * time.Second)
	if n := other.Stats().Shards; n != 64 {
		t.Fatalf("the other relay owns %d shards, want all", n)
	}
	if renewing {
		claims.open()
		time.Sleep(500 * time.Millisecond)
	}
	publishing.open()
	synctest.Wait()
	if n := count(); n != 5 {
		t.Fatalf("%d messages were published after the lease was lost", n-5)
	}
	claims.open()
	time.Sleep(20 * time.Second)
	b.emitMany(1000, 1000)
	time.Sleep(20 * time.Second)
	got.want(t, b.next)
	if n := count(); n == 5 {
		t.Fatal("the relay that was stopped does no work")
	}
	if got.repeated() > 5 {
		t.Fatalf("%d messages were repeated, want at most the 5 that were sent", got.repeated())
	}
	b.stopped(stop)
	b.stopped(stopOther)
}

// TestAClaimThatHangsOnceDoesNotCostTheLease: there is time for a second try.
func TestAClaimThatHangsOnceDoesNotCostTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		var hang atomic.Bool
		s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
			if op == "claim" && hang.Swap(false) {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		_, stop := b.startOn(s, got, nil)
		time.Sleep(5 * time.Second)
		hang.Store(true)
		for range 200 {
			before := got.count()
			b.emit(1, 1)
			time.Sleep(100 * time.Millisecond)
			if got.count() == before {
				t.Fatal("a message waits: the relay holds its lease to be lost")
			}
		}
		b.stopped(stop)
	})
}

// TestFailureUnderALostLeaseIsNotWritten: the shard is another's, and so is the
// message's next attempt.
func TestFailureUnderALostLeaseIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		var claims, fails gate
		var lost atomic.Int32
		s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
			switch op {
			case "claim":
				return claims.pass(ctx)
			case "fail":
				err := fails.pass(ctx)
				lost.Add(1)
				return err
			}
			return nil
		}}
		refusing := publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) {
			done(outbox.Refused(errTampered))
		})
		b.emitMany(100, 10)
		fails.close()
		_, stop := b.startOn(s, refusing, nil)
		time.Sleep(time.Second)
		claims.close() // now the relay is as if stopped, but for its publisher
		// Another relay refuses too, and is the one whose attempts count.
		other, stopOther := b.startWith(publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) {
			done(outbox.Refused(errTampered))
		}), &relay.Config{RefusedBackoff: time.Hour, MaxRefusedBackoff: time.Hour})
		time.Sleep(15 * time.Second)
		if n := other.Stats().Shards; n != 64 {
			t.Fatalf("the other relay owns %d shards, want all", n)
		}
		fails.open()
		time.Sleep(100 * time.Millisecond)
		if lost.Load() == 0 {
			t.Fatal("no failure was recorded late")
		}
		for _, row := range b.pending() {
			if row.Attempts > 1 {
				t.Fatalf("message %d has %d attempts, want the other relay's one", row.Position, row.Attempts)
			}
		}
		b.stopped(stopOther)
		claims.open()
		b.stopped(stop)
		_, stop = b.startWith(got, nil)
		time.Sleep(2 * time.Hour)
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}

// TestLeaseLostInAFailureStopsPublishing: the relay learns of it before its time is
// over, and sends nothing until a claim has told what it still owns.
func TestLeaseLostInAFailureStopsPublishing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		var claims gate
		s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
			if op != "claim" {
				return nil
			}
			return claims.pass(ctx)
		}}
		p := publisherFunc(func(ctx context.Context, m *outbox.Message, done func(error)) {
			if m.Key == "b" {
				done(outbox.Refused(errTampered))
				return
			}
			got.Publish(ctx, m, done)
		})
		_, stop := b.startOn(s, p, nil)
		time.Sleep(time.Second)
		claims.close()
		b.steal()
		b.emitKey("t", "b")
		time.Sleep(time.Second)
		b.emitMany(100, 10)
		time.Sleep(time.Second)
		if n := got.count(); n != 0 {
			t.Fatalf("%d messages were published under leases that are lost", n)
		}
		claims.open()
		b.stopped(stop)
	})
}

// pending returns the rows that are not settled.
func (b *bench) pending() []store.Row {
	b.t.Helper()
	var rows []store.Row
	request := store.ReadRequest{Shards: store.FirstShards(64), Limit: 10_000, MaxBytes: 1 << 40}
	for more := true; more; {
		pages, err := b.store.Read(b.t.Context(), request)
		if err != nil {
			b.t.Fatal(err)
		}
		rows = append(rows, pages[0].Rows...)
		request.Cursor, more = pages[0].Cursor, pages[0].More
	}
	return rows
}
