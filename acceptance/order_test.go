package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

// mood is the broker's: shared by the publishers of all relays.
type mood struct {
	cured     atomic.Bool
	awayUntil atomic.Int64
	aways     atomic.Int64
}

func (m *mood) goAway(d time.Duration) {
	m.aways.Add(1)
	m.awayUntil.Store(time.Now().Add(d).UnixNano())
}

func (m *mood) away() bool { return time.Now().UnixNano() < m.awayUntil.Load() }

// fickle is a publisher that refuses poison until it is cured, others now and then,
// and is away at times: then a message may have arrived all the same. Nothing comes
// from it once it is dead.
type fickle struct {
	outbox.Publisher
	mood *mood
	dead atomic.Bool
}

func (f *fickle) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	var s step
	if err := json.Unmarshal(m.Payload, &s); err != nil {
		done(outbox.Invalid(err))
		return
	}
	away := f.mood.away()
	switch {
	case f.dead.Load() || away && rand.IntN(2) == 0:
		done(outbox.Unavailable(errMood))
	case s.Poison && !f.mood.cured.Load():
		done(outbox.Refused(errPoison))
	case m.Attempts < bedAttempts-2 && rand.IntN(30) == 0:
		done(outbox.Refused(errMood))
	case away:
		f.Publisher.Publish(ctx, m, func(error) { done(outbox.Unavailable(errMood)) })
	default:
		f.Publisher.Publish(ctx, m, done)
	}
}

// severed is a store as a relay sees it whose process can die: then it does nothing
// for it any more, and its leases run out.
type severed struct {
	relay.Store
	dead atomic.Bool
	also func() bool // it does nothing at the moment; nil for never
}

func (s *severed) fault() error {
	if s.dead.Load() || s.also != nil && s.also() {
		return errSevered
	}
	return nil
}

var errSevered = errors.New("severed")

func (s *severed) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	if err := s.fault(); err != nil {
		return store.Claim{}, err
	}
	return s.Store.Claim(ctx, r)
}

func (s *severed) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	if err := s.fault(); err != nil {
		return err
	}
	return s.Store.Leave(ctx, owner, doubt)
}

func (s *severed) Read(ctx context.Context, r ...store.ReadRequest) ([]store.Page, error) {
	if err := s.fault(); err != nil {
		return nil, err
	}
	return s.Store.Read(ctx, r...)
}

func (s *severed) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	if err := s.fault(); err != nil {
		return err
	}
	return s.Store.Settle(ctx, refs, keep)
}

func (s *severed) Fail(ctx context.Context, failures []store.Failure) error {
	if err := s.fault(); err != nil {
		return err
	}
	return s.Store.Fail(ctx, failures)
}

func (s *severed) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	if err := s.fault(); err != nil {
		return nil, err
	}
	return s.Store.Parked(ctx, shards)
}

// mortal is a relay that can be stopped in order or die.
type mortal struct {
	store     *severed
	publisher *fickle
	cancel    context.CancelFunc
	ended     chan struct{}
}

// flock keeps three relays running, of which now and then one ends and another
// takes its place.
type flock struct {
	bed    *policyBed
	mood   *mood
	relays [3]*mortal
	all    sync.WaitGroup
	stops  int
	kills  int
}

func (f *flock) hatch() *mortal {
	s, closeStore := f.bed.open()
	m := &mortal{
		store:     &severed{Store: s},
		publisher: &fickle{Publisher: f.bed.publisher(), mood: f.mood},
		ended:     make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	config := f.bed.config()
	r := relay.New(m.store, m.publisher, &config)
	f.all.Go(func() {
		defer close(m.ended)
		if err := r.Run(ctx); err != nil && !m.store.dead.Load() {
			f.bed.t.Logf("a relay that was told to stop: %v", err)
		}
		_ = m.publisher.Close()
		closeStore()
	})
	return m
}

// disturb ends relays and has the broker go away, until ctx ends.
func (f *flock) disturb(ctx context.Context) {
	for i := range f.relays {
		f.relays[i] = f.hatch()
	}
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100*time.Millisecond + rand.N(200*time.Millisecond)):
		}
		i := rand.IntN(len(f.relays))
		switch turn % 3 {
		case 0:
			f.mood.goAway(50*time.Millisecond + rand.N(100*time.Millisecond))
			continue
		case 1:
			f.relays[i].cancel()
			<-f.relays[i].ended
			f.stops++
		default: // what it was doing goes on beside its successor, and comes to nothing
			f.relays[i].store.dead.Store(true)
			f.relays[i].publisher.dead.Store(true)
			f.relays[i].cancel()
			f.kills++
		}
		f.relays[i] = f.hatch()
	}
}

// run disturbs until the returned function is called, which ends all relays.
func (f *flock) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var disturbing sync.WaitGroup
	disturbing.Go(func() { f.disturb(ctx) })
	return sync.OnceFunc(func() {
		cancel()
		disturbing.Wait()
		for _, m := range f.relays {
			m.cancel()
		}
		f.all.Wait()
	})
}

// allowed is how many repeats and rewinds there may be: what a relay had sent, and
// not deleted, when it ended, and what arrived unanswered when the broker was away.
func (f *flock) allowed() int {
	c := f.bed.config()
	return (f.stops+f.kills)*(c.Window+c.SettleBatch) + int(f.mood.aways.Load())*len(f.relays)*c.Window
}

// TestOrderUnderFailure emits while relays come and go, some of them without a
// word, and while the broker refuses some messages for ever and others at times,
// and is away at times. What each key must show then is said by [policyBed.courses]:
//
//   - skip: all but the poison, in order; the poison is dead letters.
//   - park: all before its first poison, in order; all the rest is dead letters. Cured
//     and redriven, the rest follows in order, before what is emitted meanwhile.
//   - block: all before its first poison, in order; the rest waits in the outbox, and
//     the other keys do not. Cured and retried, the rest follows in order.
func TestOrderUnderFailure(t *testing.T) {
	for _, policy := range []relay.Policy{relay.Skip, relay.Park, relay.Block} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Run("PostgreSQL+RabbitMQ", func(t *testing.T) {
				t.Parallel()
				messages, keys := 2000, 100
				if os.Getenv("OUTBOX_SOAK") != "" {
					messages, keys = 10_000, 200
				}
				orderUnderFailure(newPostgresBed(t, policy), messages, keys, 100*time.Millisecond)
			})
			t.Run("Memory", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { orderUnderFailure(newMemoryBed(t, policy), 4000, 200, 200*time.Millisecond) })
			})
		})
	}
}

func newBed(t testing.TB, policy relay.Policy) *policyBed {
	return &policyBed{t: t, policy: policy, book: &book{}, emitted: course{}, poison: map[string][]int{}}
}

func newPostgresBed(t testing.TB, policy relay.Policy) *policyBed {
	b := newBed(t, policy)
	s := newSystem(newPostgres(t), newRabbit(t, false))
	p := s.database.(*postgres)
	b.admin = p.store
	b.emit = func(steps ...step) error {
		return p.outbox.InTx(context.Background(), func(tx pgx.Tx) error { return p.outbox.Emit(context.Background(), tx, events(steps)...) })
	}
	b.open = func() (relay.Store, func()) {
		st, closeStore, err := openStore(s.databaseURL())
		if err != nil {
			panic(err) // no test's goroutine
		}
		return st, closeStore
	}
	b.publisher = func() outbox.Publisher {
		p, err := openPublisher(s.address)
		if err != nil {
			panic(err)
		}
		return p
	}
	b.consume(s.subscriber(t))
	return b
}

func newMemoryBed(t testing.TB, policy relay.Policy) *policyBed {
	b := newBed(t, policy)
	s, broker := memstore.New(nil), membroker.New()
	ob := outbox.New(s)
	b.admin = s
	b.emit = func(steps ...step) error {
		return ob.InTx(context.Background(), func(tx *memstore.Tx) error { return ob.Emit(context.Background(), tx, events(steps)...) })
	}
	b.open = func() (relay.Store, func()) { return s, func() {} }
	b.publisher = func() outbox.Publisher { return broker.Publisher() }
	b.consume(broker.Subscriber())
	return b
}

// consume has a worker fill the book.
func (b *policyBed) consume(sub outbox.Subscriber) {
	w := worker.New(sub, &worker.Config{Queue: "steps", Prefetch: 100, Concurrency: 8, Logger: quiet()})
	worker.Handle(w, "#", b.book.handle)
	b.t.Cleanup(runWorker(b.t, w))
}

func orderUnderFailure(b *policyBed, messages, keys int, pace time.Duration) {
	f := &flock{bed: b, mood: &mood{}}
	stop := f.run()
	b.t.Cleanup(stop)
	b.emitMany(messages, keys, pace)
	shown, remaining := b.courses()
	switch b.policy {
	case relay.Skip:
		b.await("all but the poison", shown, remaining.total(), 0)
		b.wantDead(remaining)
	case relay.Park:
		b.parkAndRedrive(f, keys)
	case relay.Block:
		b.await("all that is not behind poison", shown, 0, remaining.total())
		var blocked []store.Ref
		eventually(b.t, "the first poison of each key is blocked", func() (bool, string) {
			stats, err := b.admin.Stats(context.Background())
			must(b.t, err)
			return int(stats.Blocked) == len(remaining) && stats.Waiting == 0,
				fmt.Sprintf("%d blocked and %d waiting, want %d", stats.Blocked, stats.Waiting, len(remaining))
		})
		blocked = b.wantBlocked(remaining)
		f.mood.cured.Store(true)
		n, err := b.admin.Retry(context.Background(), blocked)
		must(b.t, err)
		if n != len(blocked) {
			b.t.Errorf("%d messages were retried, want %d", n, len(blocked))
		}
		shown = b.emitted
		b.await("all", shown, 0, 0)
	}
	stop()
	if b.policy == relay.Park {
		shown = b.emitted
	}
	repeats, rewinds := b.await("no more", shown, map[relay.Policy]int{relay.Skip: remaining.total()}[b.policy], 0)
	b.t.Logf("%d messages, %d of %d keys with poison; %d relays stopped, %d killed, broker away %d times: %d repeats, %d times a key began again (at most %d)",
		b.emitted.total(), len(remaining), keys, f.stops, f.kills, f.mood.aways.Load(), repeats, rewinds, f.allowed())
	if max(repeats, rewinds) > f.allowed() {
		b.t.Errorf("%d repeats, want at most %d", repeats, f.allowed())
	}
}

// poisonous picks one message in a hundred.
func poisonous(key string, n int) bool {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, key, ":", n)
	return h.Sum32()%100 == 7
}

// emitMany emits messages of keys, from several goroutines, each with keys of its
// own, in transactions of up to twenty, with pauses.
func (b *policyBed) emitMany(messages, keys int, pace time.Duration) {
	const emitters = 4
	var emitting sync.WaitGroup
	for e := range emitters {
		emitting.Go(func() {
			random := rand.New(rand.NewPCG(uint64(e), 1))
			for left := messages / emitters; left > 0; {
				var some []string
				for range min(left, 1+random.IntN(20)) {
					some = append(some, fmt.Sprint("k", e+emitters*random.IntN(keys/emitters)))
				}
				left -= len(some)
				b.next(poisonous, some...)
				time.Sleep(time.Duration(random.Int64N(int64(pace))))
			}
		})
	}
	emitting.Wait()
}

// parkAndRedrive waits for the keys to be parked, emits more, which joins them, and
// redrives all while more is emitted.
func (b *policyBed) parkAndRedrive(f *flock, keys int) {
	shown, remaining := b.courses()
	b.await("all that is not behind poison", shown, remaining.total(), 0)
	b.wantDead(remaining)
	var every []string
	for i := range keys {
		every = append(every, fmt.Sprint("k", i))
	}
	b.next(harmless, every...)
	shown, remaining = b.courses()
	b.await("what is newer of the keys that are not parked", shown, remaining.total(), 0)
	b.wantDead(remaining)
	f.mood.cured.Store(true)
	var emitting sync.WaitGroup
	emitting.Go(func() {
		for range 5 {
			b.next(harmless, every...)
			time.Sleep(20 * time.Millisecond)
		}
	})
	b.redrive(20)
	emitting.Wait()
	b.await("all", b.emitted, 0, 0)
}

// redrive redrives all dead letters, so many keys at a time, by any letter of each.
func (b *policyBed) redrive(keys int) {
	b.t.Helper()
	byKey := map[string][]int64{}
	for _, d := range b.list(store.Dead) {
		byKey[d.Key] = append(byKey[d.Key], d.Place)
	}
	var places []int64
	for _, list := range byKey {
		places = append(places, list[rand.IntN(len(list))])
	}
	for some := range slices.Chunk(places, keys) {
		_, err := b.admin.Redrive(context.Background(), some)
		must(b.t, err)
	}
}
