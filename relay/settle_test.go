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

// TestDuplicatesAreBounded: what is delivered and not yet deleted, and would be sent
// again after a crash, never exceeds the window and a settle batch.
func TestDuplicatesAreBounded(t *testing.T) {
	for _, keys := range []int{0, 5000} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { duplicatesBounded(t, keys) })
		})
	}
}

func duplicatesBounded(t *testing.T, keys int) {
	const window, batch = 70, 30
	b, d := newBench(t), newDice(1)
	var hold gate
	var settled, sent, most atomic.Int64
	s := &tampered{
		Store: b.store,
		before: func(ctx context.Context, op string) error {
			if op != "settle" {
				return nil
			}
			return hold.pass(ctx)
		},
		settle: func(refs []store.Ref) {
			if len(refs) > batch {
				t.Errorf("%d messages are deleted at once, want at most %d", len(refs), batch)
			}
			settled.Add(int64(len(refs)))
		},
	}
	p := publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) {
		most.Store(max(most.Load(), sent.Add(1)-settled.Load()))
		time.AfterFunc(d.wait(time.Millisecond), func() { done(nil) })
	})
	if keys == 0 {
		for range 5 {
			b.emitKeys("t", make([]string, 1000)...)
		}
	} else {
		b.emitMany(5000, keys)
	}
	_, stop := b.startOn(s, p, &relay.Config{Window: window, SettleBatch: batch})
	time.Sleep(20 * time.Millisecond)
	hold.close()
	time.Sleep(10 * time.Second)
	if n := sent.Load() - settled.Load(); n != window+batch {
		t.Fatalf("%d messages are sent and not deleted, want %d: the window is used", n, window+batch)
	}
	hold.open()
	time.Sleep(time.Minute)
	b.stopped(stop)
	if n := most.Load(); n > window+batch {
		t.Fatalf("%d messages were sent and not deleted, want at most %d", n, window+batch)
	}
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
	b.wantEmpty()
}

// TestConfirmedMessagesAreDeletedSoon: also those that do not fill a batch.
func TestConfirmedMessagesAreDeletedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		_, stop := b.start(nil)
		time.Sleep(time.Second)
		b.emit(3, 3)
		time.Sleep(9 * time.Millisecond)
		if n := b.store.Pending(); n != 3 {
			t.Fatalf("%d messages are pending, want 3 to be gathered for 10 ms", n)
		}
		time.Sleep(2 * time.Millisecond)
		if n := b.store.Pending(); n != 0 {
			t.Fatalf("%d messages are pending after 11 ms", n)
		}
		b.stopped(stop)
	})
}

// TestStoreErrors: any operation fails at random, done or not.
func TestStoreErrors(t *testing.T) {
	for seed := range seeds(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { storeErrors(t, seed) })
		})
	}
}

func storeErrors(t *testing.T, seed uint64) {
	b, d := newBench(t), newDice(seed)
	var healed atomic.Bool
	fault := func(op string) error {
		switch {
		case healed.Load() || op == "listen" || !d.chance(0.1):
			return nil
		case op == "read" && d.chance(0.5):
			return store.ErrCursorVoid
		}
		return errTampered
	}
	p := &moody{sink: newSink(), dice: d, late: 2 * time.Millisecond, refuse: 0.02, lose: 0.01}
	if seed%3 == 0 {
		p.refuse, p.lose = 0, 0
	}
	var stops []func() error
	for range 1 + seed%3 {
		s := &tampered{Store: b.store, before: func(_ context.Context, op string) error { return fault(op) }, after: fault}
		_, stop := b.startOn(s, p, &relay.Config{
			Memory: 64<<10 + d.upTo(200<<10), Window: 1 + d.upTo(200), SettleBatch: 1 + d.upTo(200), ReadBatch: 1 + d.upTo(200),
			RefusedBackoff: 20 * time.Millisecond, MaxRefusedBackoff: time.Second, SweepInterval: time.Second,
		})
		stops = append(stops, stop)
	}
	for range 20 {
		b.emitMany(200, 1+d.upTo(300))
		time.Sleep(d.wait(2 * time.Second))
	}
	time.Sleep(10 * time.Minute)
	// Settle fails, and nothing else than a crash or a lost lease may repeat a
	// message that was confirmed.
	p.wantOnce(t, b.next)
	healed.Store(true)
	time.Sleep(time.Minute)
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
	b.wantEmpty()
	for _, stop := range stops {
		b.stopped(stop)
	}
}

// TestSettleGoesOnWhileFailuresCannotBeWritten: one message that the broker refuses
// does not slow down the others when the store cannot write that.
func TestSettleGoesOnWhileFailuresCannotBeWritten(t *testing.T) {
	for _, how := range []string{"fail", "hang"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, p := newBench(t), newBlocker("b")
				s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
					switch {
					case op != "fail":
						return nil
					case how == "hang":
						<-ctx.Done()
						return ctx.Err()
					}
					return errTampered
				}}
				b.emitKey("t", "b")
				_, stop := b.startOn(s, p, &relay.Config{Window: 10, SettleBatch: 10, DrainTimeout: time.Second})
				time.Sleep(time.Minute)
				b.emitMany(10_000, 100)
				time.Sleep(5 * time.Second)
				p.want(t, b.others("b"))
				if err := stop(); err == nil {
					t.Fatal("stopped with a failure unwritten, and did not say so")
				}
			})
		})
	}
}

// TestCursorVoidReadsFromTheStart: what was delivered is deleted, so nothing comes
// twice; what waits in memory is read again, and its order kept.
func TestCursorVoidReadsFromTheStart(t *testing.T) {
	for seed := range seeds(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d := newBench(t), newDice(seed)
				p := &moody{sink: newSink(), dice: d, late: 3 * time.Millisecond, lose: 0.01}
				s := &restarting{Store: b.store, dice: d}
				_, stop := b.startOn(s, p, &relay.Config{Window: 50, ReadBatch: 20, SweepInterval: -1})
				for range 20 {
					b.emitMany(100, 30)
					time.Sleep(d.wait(20 * time.Millisecond))
				}
				time.Sleep(10 * time.Minute)
				p.wantOnce(t, b.next)
				b.wantEmpty()
				b.stopped(stop)
			})
		})
	}
}

// restarting is a store whose cursors all become void now and then.
type restarting struct {
	relay.Store
	dice        *dice
	incarnation int
}

func (s *restarting) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	if s.dice.chance(0.05) {
		s.incarnation++
	}
	mark := fmt.Sprintf("%d!", s.incarnation)
	requests = slices.Clone(requests)
	for i := range requests {
		for _, text := range []*string{&requests[i].Cursor.Seen, &requests[i].Cursor.Epoch} {
			rest, current := strings.CutPrefix(*text, mark)
			if *text != "" && !current {
				return nil, store.ErrCursorVoid
			}
			*text = rest
		}
	}
	pages, err := s.Store.Read(ctx, requests...)
	for i := range pages {
		for _, text := range []*string{&pages[i].Cursor.Seen, &pages[i].Cursor.Epoch} {
			if *text != "" {
				*text = mark + *text
			}
		}
	}
	return pages, err
}

// TestLateFailureIsWrittenBeforeStopping: Run waits for a failure that is being
// written, too.
func TestLateFailureIsWrittenBeforeStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
			if op == "fail" {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		}}
		b.emitKey("t", "b")
		_, stop := b.startOn(s, p, nil)
		time.Sleep(100 * time.Millisecond)
		b.stopped(stop)
		if rows := b.pending(); len(rows) != 1 || rows[0].Attempts != 1 {
			t.Fatalf("pending is %+v, want the message with one attempt", rows)
		}
	})
}

// TestStopDoesNotWaitForFailuresOfLostShards: they are the new owner's to find.
func TestStopDoesNotWaitForFailuresOfLostShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		var fails gate
		s := &tampered{Store: b.store}
		s.before = func(ctx context.Context, op string) error {
			if op != "fail" {
				return nil
			}
			return fails.pass(ctx)
		}
		b.emitKey("t", "b")
		fails.close()
		_, stop := b.startOn(s, p, nil)
		time.Sleep(100 * time.Millisecond)
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- stop() }()
		synctest.Wait()
		b.steal()
		fails.open()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("stopped after %v", took)
		}
	})
}

// steal gives all shards to an owner that is no relay.
func (b *bench) steal() {
	b.t.Helper()
	for _, w := range b.watch {
		if err := b.store.Leave(b.t.Context(), w.Owner(), nil); err != nil {
			b.t.Fatal(err)
		}
	}
	claim, err := b.store.Claim(b.t.Context(), store.ClaimRequest{Owner: "thief", TTL: time.Minute})
	if err != nil || len(claim.Leases) == 0 {
		b.t.Fatal(errors.Join(err, errors.New("nothing to steal")))
	}
}

// TestLastOfSeveralFailuresCounts: a message is refused again before the first
// refusal is written.
func TestLastOfSeveralFailuresCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		var fails gate
		s := &failures{Store: b.store}
		s.before = fails.pass
		b.emitKey("t", "b")
		fails.close()
		_, stop := b.startOn(s, p, nil)
		time.Sleep(20 * time.Second)
		fails.open()
		time.Sleep(20 * time.Second)
		b.stopped(stop)
		for _, batch := range s.batches {
			if len(batch) > 1 {
				t.Fatalf("failures of one message are written at once: %+v", batch)
			}
		}
		if row := b.pending()[0]; row.Attempts < 4 {
			t.Fatalf("%d attempts are stored, want those of 40 s", row.Attempts)
		}
	})
}

// failures keeps what is written by Fail.
type failures struct {
	relay.Store
	before  func(ctx context.Context) error
	batches [][]store.Failure
}

func (s *failures) Fail(ctx context.Context, batch []store.Failure) error {
	if err := s.before(ctx); err != nil {
		return err
	}
	s.batches = append(s.batches, batch)
	return s.Store.Fail(ctx, batch)
}
