package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// system is a database with an outbox, and a broker.
type system struct {
	database
	broker
	// address is where relays look for the broker: a link before it, perhaps.
	address string
}

// eachSystem runs a test on PostgreSQL with RabbitMQ and on SQLite with JetStream.
func eachSystem(t *testing.T, test func(t *testing.T, s *system)) {
	t.Helper()
	t.Parallel()
	eachOf(t, false, test)
}

// eachPrivateSystem is eachSystem with brokers that can be killed.
func eachPrivateSystem(t *testing.T, test func(t *testing.T, s *system)) {
	t.Helper()
	t.Parallel()
	eachOf(t, true, test)
}

func eachOf(t *testing.T, private bool, test func(t *testing.T, s *system)) {
	t.Run("PostgreSQL+RabbitMQ", func(t *testing.T) {
		t.Parallel()
		test(t, newSystem(newPostgres(t), newRabbit(t, private)))
	})
	t.Run("SQLite+JetStream", func(t *testing.T) {
		t.Parallel()
		test(t, newSystem(newSQLite(t), newJetStream(t)))
	})
}

func newSystem(d database, b broker) *system { return &system{d, b, b.brokerURL()} }

// relayRun is a relay that runs in this process, on connections of its own.
type relayRun struct {
	*relay.Relay
	t      testing.TB
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run, once it has ended
}

// startRelay starts a relay.
func (s *system) startRelay(t testing.TB, config relay.Config) *relayRun {
	t.Helper()
	p, err := openPublisher(s.address)
	must(t, err)
	return s.startRelayWith(t, p, config)
}

func (s *system) startRelayWith(t testing.TB, p outbox.Publisher, config relay.Config) *relayRun {
	t.Helper()
	st, closeStore, err := openStore(s.databaseURL())
	must(t, err)
	return runRelay(t, st, p, config, closeStore)
}

// runRelay runs a relay and owns its publisher and store.
func runRelay(t testing.TB, st relay.Store, p outbox.Publisher, config relay.Config, closeStore func()) *relayRun {
	t.Helper()
	config.Logger = quiet()
	config.UnavailableBackoff, config.MaxUnavailableBackoff = reconnectMin, reconnectMax
	if config.DrainTimeout == 0 {
		config.DrainTimeout = 2 * time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &relayRun{Relay: relay.New(st, p, &config), t: t, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
		_ = p.Close()
		closeStore()
	})
	return r
}

// stop ends the relay in order, which must succeed.
func (r *relayRun) stop() {
	r.t.Helper()
	r.cancel()
	<-r.ended
	must(r.t, r.err)
}

// alive fails the test if the relay has ended.
func (r *relayRun) alive() {
	r.t.Helper()
	select {
	case <-r.ended:
		r.t.Fatalf("the relay has ended: %v", r.err)
	default:
	}
}

// delivery is what a handler got.
type delivery struct {
	worker.Delivery[[]byte]
	at time.Time
}

// recorder is a worker that writes down what it gets.
type recorder struct {
	t       testing.TB
	mu      sync.Mutex
	got     []delivery
	ids     map[string]int
	changed chan struct{}
	stop    func()
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t, ids: map[string]int{}, changed: make(chan struct{}, 1)}
}

// startWorker runs a worker on a queue that collects the topics, and returns when
// it does.
func startWorker(t testing.TB, sub outbox.Subscriber, queue string, topics ...string) *recorder {
	t.Helper()
	r := newRecorder(t)
	w := worker.New(sub, &worker.Config{Queue: queue, Logger: quiet(), Retries: worker.Retries{Delays: []time.Duration{100 * time.Millisecond}, MaxAttempts: 100}})
	for _, topic := range topics {
		worker.Handle(w, topic, r.handle)
	}
	r.stop = runWorker(t, w)
	return r
}

// startWorker runs a worker on all topics.
func (s *system) startWorker(t testing.TB) *recorder {
	t.Helper()
	return startWorker(t, s.subscriber(t), "all", "#")
}

// runWorker runs w and returns when it collects messages.
func runWorker(t testing.TB, w *worker.Worker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-w.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("the worker has ended: %v", err)
	case <-time.After(patience):
		t.Fatal("the worker is not ready")
	}
	return stop
}

func (r *recorder) handle(_ context.Context, d *worker.Delivery[[]byte]) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := *d
	copied.Payload = slices.Clone(d.Payload)
	r.got = append(r.got, delivery{copied, time.Now()})
	r.ids[d.ID]++
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return nil
}

// deliveries returns what has come so far, in its order.
func (r *recorder) deliveries() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// distinct returns how many different messages have come.
func (r *recorder) distinct() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ids)
}

// await waits until n different messages have come.
func (r *recorder) await(n int) []delivery {
	r.t.Helper()
	r.awaitWithin(n, patience)
	return r.deliveries()
}

func (r *recorder) awaitWithin(n int, limit time.Duration) {
	r.t.Helper()
	late := time.After(limit)
	for r.distinct() < n {
		select {
		case <-r.changed:
		case <-late:
			r.t.Fatalf("%d of %d messages have arrived within %v", r.distinct(), n, limit)
		}
	}
}

// judge waits for all orders that are committed and for the outbox to be empty,
// fails the test for a lost one, one that was never committed, and one that came
// before its predecessor of the same key, and returns the number of repeats.
func (s *system) judge(t testing.TB, r *recorder) (repeats int) {
	t.Helper()
	committed := committedOrders(t, s)
	r.await(len(committed))
	s.awaitPending(t, 0)
	delivered, last := map[order]int{}, map[string]int{}
	for _, d := range r.deliveries() {
		var o order
		if err := json.Unmarshal(d.Payload, &o); err != nil {
			t.Fatalf("payload %q: %v", d.Payload, err)
		}
		if !committed[o] {
			t.Errorf("%+v was delivered and never committed", o)
		}
		if delivered[o]++; delivered[o] > 1 {
			repeats++
			continue
		}
		if o.N != last[o.Key]+1 {
			t.Errorf("order %d of key %s was delivered after %d", o.N, o.Key, last[o.Key])
		}
		last[o.Key] = o.N
	}
	if lost := len(committed) - len(delivered); lost > 0 {
		t.Errorf("%d of %d orders were lost", lost, len(committed))
	}
	return repeats
}

// awaitPending waits until n rows are in the outbox.
func (s *system) awaitPending(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d rows in the outbox", n), func() (bool, string) {
		have := len(pending(t, s))
		return have == n, fmt.Sprintf("%d rows", have)
	})
}

// eventually polls until done says yes; state says what there is instead.
func eventually(t testing.TB, what string, done func() (ok bool, state string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, state := done()
		switch {
		case ok:
			return
		case time.Now().After(deadline):
			t.Fatalf("waited %v for %s in vain: there are %s", patience, what, state)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// placeOrders commits n orders of each key, one transaction each for one order of
// every key.
func (s *system) placeOrders(t testing.TB, prefix string, keys, n int) {
	t.Helper()
	must(t, s.tryOrders(prefix, keys, n))
}

func (s *system) tryOrders(prefix string, keys, n int) error {
	for i := range n {
		orders := make([]order, keys)
		for k := range orders {
			orders[k] = order{ID: fmt.Sprintf("%s-%d-%d", prefix, k, i), Key: fmt.Sprintf("key-%d", k)}
		}
		if err := s.inTx(func(tx transaction) error { return placeAll(tx, orders...) }); err != nil {
			return err
		}
	}
	return nil
}

// keepPlacing commits orders, one of each key at a time, until stop is called. It
// does not run away from the recorder.
func (s *system) keepPlacing(t testing.TB, r *recorder, keys int) (stop func()) {
	const ahead = 10 // orders of each key
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; {
			select {
			case <-end:
				return
			default:
			}
			if i*keys > r.distinct()+ahead*keys {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			i++
			if err := s.tryOrders(fmt.Sprint(i), keys, 1); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(end)
		<-ended
	})
	t.Cleanup(stop)
	return stop
}

// readWatch is a relay's hook that knows when it has last read.
type readWatch struct {
	reads chan struct{}
}

func newReadWatch() *readWatch { return &readWatch{make(chan struct{}, 1)} }

// Read implements relay.ReadHook.
func (w *readWatch) Read(int, time.Duration, error) {
	select {
	case w.reads <- struct{}{}:
	default:
	}
}

// idle waits until the relay has not read for a while: it waits to be woken, or for
// its poll interval.
func (w *readWatch) idle(t testing.TB) {
	t.Helper()
	const quietFor = 300 * time.Millisecond // longer than any polling but the interval's
	late := time.After(patience)
	for {
		select {
		case <-w.reads:
		case <-time.After(quietFor):
			return
		case <-late:
			t.Fatal("the relay reads without end")
		}
	}
}

// sent is a relay's hook that writes down what it sends, and the answers.
type sent struct {
	mu        sync.Mutex
	published map[string]int // by id
	confirmed map[string]int
	failed    map[string]int
}

func newSent() *sent {
	return &sent{published: map[string]int{}, confirmed: map[string]int{}, failed: map[string]int{}}
}

// Publishing implements relay.PublishHook.
func (s *sent) Publishing(m *outbox.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published[m.ID]++
}

// Answered implements relay.AnswerHook.
func (s *sent) Answered(m *outbox.Message, _ time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.confirmed[m.ID]++
	} else {
		s.failed[m.ID]++
	}
}

// read returns a copy of one of the maps.
func (s *sent) read(m map[string]int) map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(m)
}
