package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

// TestRelayFollowsTheModel has relays drain a store in memory at random: with
// answers of all kinds, late ones, relays that end, die and lose their leases, and
// people that redrive, discard and retry. Whatever is sent, it is looked at whether
// it may be sent now.
func TestRelayFollowsTheModel(t *testing.T) {
	checks(t, 300, 40, func(t *rapid.T) { rapid.SyncTest(t, followRelays) })
}

func followRelays(t *rapid.T) {
	w := newModelWorld(rapid.Uint64().Draw(t, "seed"))
	defer w.endAll()
	t.Repeat(map[string]func(*rapid.T){
		"":            w.wantNoFault,
		"emit":        w.emit,
		"emit again":  w.emit,
		"wait":        w.wait,
		"wait again":  w.wait,
		"start":       w.start,
		"stop":        w.stop,
		"kill":        w.kill,
		"stall":       w.stall,
		"redrive":     w.redrive,
		"discard":     w.discard,
		"retry":       w.retry,
		"cure":        w.cure,
		"poison":      w.spoil,
		"broker away": w.goAway,
	})
	w.finish(t)
}

const modelAttempts = 3

// modelWorld is an outbox with relays, and the broker that judges what it gets.
type modelWorld struct {
	store  *memstore.Store
	relays []*modelRelay
	all    sync.WaitGroup

	mu        sync.Mutex
	random    *rand.Rand
	emitted   map[string]bool // by id; false once it is discarded
	poison    map[string]bool
	sick      bool // poison is refused
	kind      bool // all else is taken
	awayUntil time.Time
	delivered map[string]bool
	exempt    map[string]bool // redriven behind what was sent: has no order any more
	fault     string
}

func newModelWorld(seed uint64) *modelWorld {
	return &modelWorld{
		store: memstore.New(&memstore.Config{Shards: 2}), random: rand.New(rand.NewPCG(seed, 1)), sick: true,
		emitted: map[string]bool{}, poison: map[string]bool{}, delivered: map[string]bool{}, exempt: map[string]bool{},
	}
}

// modelRelay is a relay whose database can hang for it, for a while or for ever.
type modelRelay struct {
	*severed
	world  *modelWorld
	until  atomic.Int64 // stalled
	lease  atomic.Int64 // when its leases end, at the latest
	cancel context.CancelFunc
	ended  chan struct{}
}

func (r *modelRelay) stalled() bool { return time.Now().UnixNano() < r.until.Load() }

const modelTTL = time.Second

// Claim notes how long the leases hold.
func (r *modelRelay) Claim(ctx context.Context, request store.ClaimRequest) (store.Claim, error) {
	claim, err := r.severed.Claim(ctx, request)
	if err == nil {
		r.lease.Store(time.Now().Add(request.TTL).UnixNano())
	}
	return claim, err
}

// Publish judges a message and answers at random, at once or later. Now and then it
// takes long itself, as if the process had been stopped: what is sent next must be
// looked at again.
func (r *modelRelay) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	if r.publish(m, done) {
		time.Sleep(1500 * time.Millisecond) // longer than a lease
	}
}

func (r *modelRelay) publish(m *outbox.Message, done func(error)) (slow bool) {
	w := r.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.dead.Load() {
		go done(outbox.Unavailable(errMood))
		return false
	}
	w.judge(m)
	if time.Now().UnixNano() >= r.lease.Load() {
		w.complain(m, "is sent when the lease has ended")
	}
	err, arrives := w.answer(m)
	if arrives {
		w.delivered[m.ID] = true
	}
	if late := time.Duration(w.random.IntN(100)) * time.Millisecond; w.random.IntN(3) == 0 {
		time.AfterFunc(late, func() { done(err) })
	} else {
		go done(err)
	}
	return !w.kind && w.random.IntN(50) == 0
}

func (r *modelRelay) Close() error { return nil }

// answer says what becomes of a message. The caller holds mu.
func (w *modelWorld) answer(m *outbox.Message) (err error, arrives bool) {
	dice := w.random.IntN(100)
	switch {
	case time.Now().Before(w.awayUntil):
		return outbox.Unavailable(errMood), dice < 30
	case w.poison[m.ID] && w.sick:
		return outbox.Refused(errPoison), false
	case w.kind || dice < 80:
		return nil, true
	case dice < 88:
		return outbox.Refused(errMood), false
	case dice < 90:
		return outbox.Invalid(errMood), false
	case dice < 95:
		return outbox.Unavailable(errMood), false
	default:
		return outbox.Unavailable(errMood), true
	}
}

// judge looks at whether m may be sent now: all that is pending before it has been
// delivered, its key is not parked, and it is neither blocked nor out of attempts.
// The caller holds mu.
func (w *modelWorld) judge(m *outbox.Message) {
	ctx := context.Background()
	complain := func(format string, args ...any) { w.complain(m, format, args...) }
	if m.Attempts >= modelAttempts {
		complain("is sent after %d attempts", m.Attempts)
	}
	pending, err := w.store.List(ctx, store.Query{State: store.Pending, Key: &m.Key, Tenant: &m.Tenant, Limit: 10_000})
	if err != nil {
		complain("%v", err)
	}
	place := slices.IndexFunc(pending, func(s store.Stored) bool { return s.ID == m.ID })
	switch {
	case place < 0 && !w.delivered[m.ID]:
		complain("is sent and not pending")
	case place >= 0 && pending[place].RetryIn == store.Never:
		complain("is sent and blocked")
	}
	if m.Key == "" {
		return
	}
	for _, before := range pending[:max(place, 0)] {
		if !w.delivered[before.ID] && !w.exempt[before.ID] {
			complain("is sent before message %d, which has %d attempts and waits for %v", before.Position, before.Attempts, before.RetryIn)
		}
	}
	dead, err := w.store.List(ctx, store.Query{State: store.Dead, Key: &m.Key, Tenant: &m.Tenant, Limit: 10_000})
	if err != nil {
		complain("%v", err)
	}
	if slices.ContainsFunc(dead, func(d store.Stored) bool { return d.Parked }) {
		complain("is sent while its key is parked")
	}
}

// complain keeps the first fault. The caller holds mu.
func (w *modelWorld) complain(m *outbox.Message, format string, args ...any) {
	if w.fault == "" {
		w.fault = fmt.Sprintf("message %d of key %s: ", m.Position, m.Key) + fmt.Sprintf(format, args...)
	}
}

func (w *modelWorld) wantNoFault(t *rapid.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault != "" {
		t.Fatal(w.fault)
	}
}

func (w *modelWorld) emit(t *rapid.T) {
	var events []outbox.Event
	for range rapid.IntRange(1, 6).Draw(t, "messages") {
		e := outbox.Event{
			ID: uuid.NewString(), Topic: rapid.SampledFrom([]string{"skip", "park", "block"}).Draw(t, "topic"),
			Key: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "key"), Payload: []byte("x"),
		}
		if rapid.IntRange(0, 9).Draw(t, "scheduled") == 0 {
			e.DeliverAt = time.Now().Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "in")) * time.Millisecond)
		}
		w.mu.Lock()
		w.emitted[e.ID] = true
		w.poison[e.ID] = rapid.IntRange(0, 7).Draw(t, "poison") == 0
		w.mu.Unlock()
		events = append(events, e)
	}
	ob := outbox.New(w.store)
	ok(t, ob.InTx(t.Context(), func(tx *memstore.Tx) error { return ob.Emit(t.Context(), tx, events...) }), "emit")
}

func (w *modelWorld) wait(t *rapid.T) {
	time.Sleep(time.Duration(rapid.SampledFrom([]int{1, 30, 400, 3000, 20_000}).Draw(t, "ms")) * time.Millisecond)
}

func (w *modelWorld) start(t *rapid.T) {
	if len(w.relays) >= 3 {
		t.Skip("enough relays")
	}
	w.startOne()
}

func (w *modelWorld) startOne() {
	r := &modelRelay{severed: &severed{Store: w.store}, world: w, ended: make(chan struct{})}
	r.severed.also = r.stalled
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	running := relay.New(r, r, &relay.Config{
		Window: 5, ReadBatch: 7, SettleBatch: 5, LeaseTTL: modelTTL, MaxAttempts: modelAttempts,
		Policies:       []relay.TopicPolicy{{Pattern: "park", Policy: relay.Park}, {Pattern: "block", Policy: relay.Block}},
		RefusedBackoff: 50 * time.Millisecond, MaxRefusedBackoff: 200 * time.Millisecond,
		UnavailableBackoff: 10 * time.Millisecond, MaxUnavailableBackoff: 100 * time.Millisecond,
		DrainTimeout: time.Second, Logger: quiet(),
	})
	w.all.Go(func() {
		defer close(r.ended)
		_ = running.Run(ctx)
	})
	w.relays = append(w.relays, r)
}

func (w *modelWorld) oneRelay(t *rapid.T) *modelRelay {
	return pick(t, w.relays, 1, "relays")[0]
}

func (w *modelWorld) stop(t *rapid.T) {
	r := w.oneRelay(t)
	w.relays = slices.DeleteFunc(w.relays, func(other *modelRelay) bool { return other == r })
	r.cancel()
	if rapid.Bool().Draw(t, "wait for the end") {
		<-r.ended
	}
}

func (w *modelWorld) kill(t *rapid.T) {
	r := w.oneRelay(t)
	w.relays = slices.DeleteFunc(w.relays, func(other *modelRelay) bool { return other == r })
	r.dead.Store(true)
	r.cancel()
}

// stall keeps a relay from its database for shorter or longer than its leases last.
func (w *modelWorld) stall(t *rapid.T) {
	pause := time.Duration(rapid.SampledFrom([]int{100, 900, 1100, 5000}).Draw(t, "ms")) * time.Millisecond
	w.oneRelay(t).until.Store(time.Now().Add(pause).UnixNano())
}

func (w *modelWorld) deadLetters(t *rapid.T) []store.Stored {
	dead, err := w.store.List(t.Context(), store.Query{State: store.Dead, Limit: 10_000})
	ok(t, err, "list")
	return dead
}

func (w *modelWorld) redrive(t *rapid.T) {
	w.redriveThese(t, pick(t, w.deadLetters(t), 3, "dead"))
}

// redriveThese redrives. What is redriven of a key that is not parked comes behind
// its successors, and has lost its order.
func (w *modelWorld) redriveThese(t *rapid.T, dead []store.Stored) {
	var places []int64
	w.mu.Lock()
	for _, d := range dead {
		places = append(places, d.Place)
		parked, err := w.store.Parked(t.Context(), store.FirstShards(w.store.Shards()))
		ok(t, err, "parked")
		if !slices.Contains(parked, store.Key{Tenant: d.Tenant, Key: d.Key}) {
			w.exempt[d.ID] = true
		}
	}
	w.mu.Unlock()
	_, err := w.store.Redrive(t.Context(), places)
	ok(t, err, "redrive")
}

func (w *modelWorld) discard(t *rapid.T) {
	var places []int64
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range pick(t, w.deadLetters(t), 3, "dead") {
		places = append(places, d.Place)
		w.emitted[d.ID] = false
	}
	_, err := w.store.Discard(t.Context(), places)
	ok(t, err, "discard")
}

func (w *modelWorld) retry(t *rapid.T) {
	waiting, err := w.store.List(t.Context(), store.Query{State: store.Pending, Waiting: true, Limit: 10_000})
	ok(t, err, "list")
	w.retryThese(t, pick(t, waiting, 3, "waiting"))
}

func (w *modelWorld) retryThese(t *rapid.T, waiting []store.Stored) {
	var refs []store.Ref
	for _, s := range waiting {
		refs = append(refs, store.Ref{Position: s.Position, ID: s.ID})
	}
	_, err := w.store.Retry(t.Context(), refs)
	ok(t, err, "retry")
}

func (w *modelWorld) setSick(sick bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sick = sick
}

func (w *modelWorld) cure(*rapid.T)  { w.setSick(false) }
func (w *modelWorld) spoil(*rapid.T) { w.setSick(true) }

func (w *modelWorld) goAway(t *rapid.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awayUntil = time.Now().Add(time.Duration(rapid.IntRange(1, 2000).Draw(t, "away")) * time.Millisecond)
}

// finish cures all, redrives and retries all, and wants all delivered.
func (w *modelWorld) finish(t *rapid.T) {
	w.mu.Lock()
	w.sick, w.kind, w.awayUntil = false, true, time.Time{}
	w.mu.Unlock()
	w.startOne()
	for range 3 { // what was on its way when it was redriven the first time
		time.Sleep(30 * time.Second)
		w.redriveThese(t, w.deadLetters(t))
		waiting, err := w.store.List(t.Context(), store.Query{State: store.Pending, Waiting: true, Limit: 10_000})
		ok(t, err, "list")
		w.retryThese(t, waiting)
	}
	time.Sleep(30 * time.Second)
	w.wantNoFault(t)
	stats, err := w.store.Stats(t.Context())
	ok(t, err, "stats")
	if stats.Pending+stats.Dead+stats.Scheduled > 0 {
		t.Fatalf("at the end %d are pending, %d dead, %d scheduled", stats.Pending, stats.Dead, stats.Scheduled)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, kept := range w.emitted {
		if kept && !w.delivered[id] {
			t.Fatalf("message %s was lost", id)
		}
	}
}

func (w *modelWorld) endAll() {
	for _, r := range w.relays {
		r.cancel()
	}
	w.all.Wait()
}
