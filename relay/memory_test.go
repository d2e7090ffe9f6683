package relay_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// blocker refuses messages for as long as the test says, and passes on the others.
type blocker struct {
	*sink
	refuses func(*outbox.Message) bool
	open    atomic.Bool
	look    atomic.Pointer[func()] // called with each message
}

func (p *blocker) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if look := p.look.Load(); look != nil {
		(*look)()
	}
	switch {
	case !p.open.Load() && p.refuses(m):
		done(outbox.Refused(errTampered))
	case m.Key == "":
		done(nil)
	default:
		p.sink.Publish(ctx, m, done)
	}
}

func newBlocker(prefix string) *blocker {
	return &blocker{sink: newSink(), refuses: func(m *outbox.Message) bool { return strings.HasPrefix(m.Key, prefix) }}
}

// others returns the greatest numbers of the keys without prefix.
func (b *bench) others(prefix string) map[string]int {
	want := map[string]int{}
	for key, n := range b.next {
		if !strings.HasPrefix(key, prefix) {
			want[key] = n
		}
	}
	return want
}

// bound watches that the newest relay, which publishes by p, holds no more than its
// memory and a message, and that it counts right.
func (b *bench) bound(p *blocker, memory, message int) (check func()) {
	watch := b.watch[len(b.watch)-1]
	done := make(chan struct{})
	var most atomic.Int64
	look := func() { most.Store(max(most.Load(), int64(watch.Said()))) }
	p.look.Store(&look)
	var wrong string
	go func() {
		pause := time.Millisecond
		for {
			select {
			case <-done:
				return
			case <-time.After(pause):
			}
			pause = min(pause+pause/500+1, time.Second)
			said, counted := watch.Bytes()
			if said != counted && wrong == "" {
				wrong = fmt.Sprintf("%d bytes are held and %d counted", said, counted)
			}
		}
	}()
	return func() {
		b.t.Helper()
		close(done)
		synctest.Wait()
		if wrong != "" {
			b.t.Error(wrong)
		}
		if n := most.Load(); n > int64(memory+message) {
			b.t.Errorf("held up to %d bytes, want %d at most", n, memory)
		}
	}
}

// emitBlocked emits n messages of each of keys that a blocker of "b" refuses, and
// as many of others, mixed.
func (b *bench) emitBlocked(n, keys int) {
	b.t.Helper()
	var names []string
	for i := range n * keys {
		names = append(names, fmt.Sprint("b", i%keys), fmt.Sprint("k", i%(10*keys)))
		if len(names) >= 1000 || i == n*keys-1 {
			b.emitKeys("t", names...)
			names = names[:0]
		}
	}
}

// TestBlockedKeyDoesNotFillTheMemory: half of 200,000 rows wait behind one message.
func TestBlockedKeyDoesNotFillTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		b.emitBlocked(100_000, 1)
		_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10, SweepInterval: -1})
		bounded := b.bound(p, 256<<10, 1<<10)
		time.Sleep(time.Minute)
		p.want(t, b.others("b"))
		b.emitMany(1000, 10)
		time.Sleep(time.Second)
		p.want(t, b.others("b"))
		p.open.Store(true)
		time.Sleep(10 * time.Minute)
		bounded()
		p.wantOnce(t, b.next)
		b.wantEmpty()
		b.stopped(stop)
	})
}

// TestManyBlockedKeysDoNotFillTheMemory: more than are read by themselves, and more
// than have their first message in memory.
func TestManyBlockedKeysDoNotFillTheMemory(t *testing.T) {
	for _, keys := range []int{60, 70, 300, 1000, 3000} {
		t.Run(fmt.Sprint(keys), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, p := newBench(t), newBlocker("b")
				b.emitBlocked(3+9_000/keys, keys)
				_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10, SweepInterval: -1})
				bounded := b.bound(p, 256<<10, 1<<10)
				time.Sleep(time.Minute)
				p.want(t, b.others("b"))
				p.open.Store(true)
				time.Sleep(30 * time.Minute)
				bounded()
				p.wantOnce(t, b.next)
				b.wantEmpty()
				b.stopped(stop)
			})
		})
	}
}

// TestBlockedMessagesWithoutKeysDoNotFillTheMemory: each of them waits by itself.
func TestBlockedMessagesWithoutKeysDoNotFillTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), &blocker{sink: newSink()}
		p.refuses = func(m *outbox.Message) bool { return m.Topic == "blocked" }
		for range 5 {
			events := make([]outbox.Event, 1000)
			for i := range events {
				events[i] = outbox.Event{Topic: "blocked", Payload: 1}
			}
			tx, err := b.store.Begin(t.Context())
			if err == nil {
				err = b.outbox.Emit(t.Context(), tx, events...)
			}
			if err != nil {
				t.Fatal(err)
			}
			b.commit(tx)
		}
		b.emitMany(2000, 100)
		_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10, SweepInterval: -1})
		bounded := b.bound(p, 256<<10, 1<<10)
		time.Sleep(10 * time.Minute)
		p.want(t, b.others("b"))
		p.open.Store(true)
		time.Sleep(30 * time.Minute)
		bounded()
		if n := b.store.Pending(); n != 0 {
			t.Fatalf("%d messages are pending", n)
		}
		b.wantEmpty()
		b.stopped(stop)
	})
}

// TestHotKeyDoesNotKeepTheOthersOut: it is long, and one message of it in flight.
func TestHotKeyDoesNotKeepTheOthersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		slow := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			got.deliver(m)
			time.AfterFunc(10*time.Millisecond, func() { done(nil) })
		})
		for range 20 {
			var names []string
			for range 1000 {
				names = append(names, "hot")
			}
			b.emitKeys("t", names...)
		}
		b.emitMany(20_000, 5000)
		_, stop := b.startWith(slow, &relay.Config{Memory: 256 << 10, SweepInterval: -1})
		time.Sleep(2 * time.Second)
		got.want(t, b.others("hot"))
		if n := got.lastOf("hot"); n > 201 {
			t.Fatalf("%d messages of the hot key in 2 s, 10 ms each", n)
		}
		time.Sleep(5 * time.Minute)
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}

// TestBlockedKeysWithLargePayloads: each message is an eighth of the memory.
func TestBlockedKeysWithLargePayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		b.extra = 32 << 10
		b.emitBlocked(10, 20)
		_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10, SweepInterval: -1})
		time.Sleep(time.Minute)
		p.want(t, b.others("b"))
		p.open.Store(true)
		time.Sleep(10 * time.Minute)
		p.wantOnce(t, b.next)
		b.wantEmpty()
		b.stopped(stop)
	})
}

// TestMessageLargerThanTheMemory is read alone.
func TestMessageLargerThanTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		b.emitMany(100, 10)
		b.extra = 100 << 10
		b.emitMany(20, 10)
		b.extra = 0
		b.emitMany(100, 10)
		_, stop := b.startWith(got, &relay.Config{Memory: 64 << 10, SweepInterval: -1})
		time.Sleep(time.Minute)
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}

// TestSpilledKeyGetsNewMessages: while a key waits in the store alone, transactions
// add to it, some of them older than what was committed before.
func TestSpilledKeyGetsNewMessages(t *testing.T) {
	for seed := range seeds(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { spilledKeyGrows(t, seed) })
		})
	}
}

func spilledKeyGrows(t *testing.T, seed uint64) {
	b, p, d := newBench(t), newBlocker("b"), newDice(seed)
	b.emitBlocked(1000, 3)
	_, stop := b.startWith(p, &relay.Config{
		Memory: 64 << 10, SweepInterval: -1, ReadBatch: 1 + d.upTo(300), RefusedBackoff: 100 * time.Millisecond, MaxRefusedBackoff: time.Second,
	})
	// Another key's message, emitted first, makes its transaction's positions lower
	// than those of the blocked key's that are committed meanwhile. One key's own
	// transactions commit in their order, as locks of business rows have it.
	type late struct{ commit func() }
	var open []late
	hold := func() {
		tx := b.begin("t", fmt.Sprint("late", len(b.next)), fmt.Sprint("blate", len(b.next)))
		open = append(open, late{func() { b.commit(tx) }})
	}
	for range 100 {
		if d.chance(0.5) {
			hold()
		}
		b.emitKeys("t", "b0", "k0", "b1", "k1", "b2", "b0", "k2")
		if len(open) > 0 && d.chance(0.4) {
			i := d.upTo(len(open))
			open[i].commit()
			open = append(open[:i], open[i+1:]...)
		}
		time.Sleep(d.wait(50 * time.Millisecond))
		if d.chance(0.03) {
			p.open.Store(!p.open.Load())
		}
	}
	for _, l := range open {
		l.commit()
	}
	p.open.Store(true)
	time.Sleep(10 * time.Minute)
	p.wantOnce(t, b.next)
	b.wantEmpty()
	b.stopped(stop)
}

// TestSpilledKeyAndLateCommitOfTheSameKey: the message with the lower position is
// committed behind, and is not skipped.
func TestSpilledKeyAndLateCommitOfTheSameKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var mu sync.Mutex
		got := map[string]int{}
		var open atomic.Bool
		p := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			if !open.Load() {
				done(outbox.Refused(errTampered))
				return
			}
			mu.Lock()
			got[m.ID]++
			mu.Unlock()
			done(nil)
		})
		want := 0
		for range 50 {
			early := b.begin("t", "b")
			for range 40 {
				b.emitKey("t", "b")
			}
			b.commit(early)
			want += 41
		}
		_, stop := b.startWith(p, &relay.Config{Memory: 64 << 10, SweepInterval: -1})
		time.Sleep(time.Minute)
		early := b.begin("t", "b")
		b.emitMany(500, 5)
		for range 500 {
			b.emitKey("t", "b")
		}
		time.Sleep(time.Minute)
		b.commit(early)
		want += 1001
		time.Sleep(time.Minute)
		open.Store(true)
		time.Sleep(10 * time.Minute)
		b.stopped(stop)
		if len(got) != want {
			t.Fatalf("%d of %d messages were delivered", len(got), want)
		}
		for id, n := range got {
			if n != 1 {
				t.Fatalf("message %s was delivered %d times", id, n)
			}
		}
	})
}

// TestSpilledKeysChangeHands: relays come and go while keys wait in the store.
func TestSpilledKeysChangeHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		b.emitBlocked(300, 20)
		config := &relay.Config{Memory: 64 << 10, SweepInterval: -1}
		_, first := b.startWith(p, config)
		time.Sleep(30 * time.Second)
		_, second := b.startWith(p, config)
		b.emitBlocked(100, 20)
		time.Sleep(30 * time.Second)
		p.want(t, b.others("b"))
		_, third := b.startWith(p, config)
		time.Sleep(5 * time.Second)
		b.stopped(first)
		p.open.Store(true)
		time.Sleep(5 * time.Second)
		b.stopped(second)
		time.Sleep(10 * time.Minute)
		p.wantOnce(t, b.next)
		b.stopped(third)
	})
}
