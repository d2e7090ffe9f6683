package promoutbox_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
	promoutbox "github.com/outbox-go/outbox/telemetry/prometheus"
)

// fakeCounter counts in a time of its own.
type fakeCounter struct {
	mu    sync.Mutex
	stats store.Stats
	took  time.Duration
	err   error
	calls []time.Time
}

func (f *fakeCounter) Stats(ctx context.Context) (store.Stats, error) {
	f.calls = append(f.calls, time.Now())
	f.mu.Lock()
	took := f.took
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return store.Stats{}, ctx.Err()
	case <-time.After(took):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats, f.err
}

// answer changes what the next counts return, from now on at once.
func (f *fakeCounter) answer(stats store.Stats, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats, f.err, f.took = stats, err, 0
}

// scrape returns all that a registry with the collectors has, as text.
func scrape(t *testing.T, collectors ...prometheus.Collector) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collectors...)
	w := httptest.NewRecorder()
	promoutbox.Handler(r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("code %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("there is no %q", line)
		}
	}
	if t.Failed() {
		t.Logf("metrics:\n%s", text)
	}
}

func TestRelayMetricsTellWhatHappened(t *testing.T) {
	t.Parallel()
	m := promoutbox.New(&promoutbox.Config{Outbox: "shop", Route: "audit"})
	const labels = `{outbox="shop",route="audit"}`
	wantLines(t, scrape(t, m), "outbox_broker_up"+labels+" 1", `outbox_dead_total{outbox="shop",reason="parked",route="audit"} 0`)
	msg := &outbox.Message{}
	m.Publishing(msg)
	m.Publishing(&outbox.Message{Attempts: 2})
	m.Answered(msg, 3*time.Millisecond, nil)
	m.Answered(msg, 30*time.Millisecond, nil)
	m.Answered(msg, time.Hour, outbox.Unavailable(errors.New("x")))
	m.Answered(msg, time.Hour, outbox.Refused(errors.New("x")))
	m.Answered(msg, time.Hour, errors.New("unclassified"))
	m.Answered(msg, time.Hour, outbox.Invalid(errors.New("x")))
	m.Died(msg, store.Invalid, "x")
	m.Settled(2, 7*time.Millisecond, nil)
	m.Settled(9, time.Hour, errors.New("x"))
	m.Read(5, 7*time.Millisecond, nil)
	m.Read(0, time.Hour, errors.New("x"))
	m.Leased(12, 3)
	m.Availability(errors.New("x"))
	wantLines(t, scrape(t, m),
		"outbox_published_total"+labels+" 2", "outbox_refused_total"+labels+" 2", "outbox_unavailable_total"+labels+" 1",
		`outbox_dead_total{outbox="shop",reason="invalid",route="audit"} 1`,
		"outbox_settled_total"+labels+" 2", "outbox_settle_errors_total"+labels+" 1", "outbox_settle_duration_seconds_count"+labels+" 1",
		"outbox_read_messages_total"+labels+" 5", "outbox_read_errors_total"+labels+" 1", "outbox_read_duration_seconds_count"+labels+" 1",
		`outbox_publish_duration_seconds_bucket{outbox="shop",route="audit",le="0.005"} 1`,
		"outbox_publish_duration_seconds_sum"+labels+" 0.033", "outbox_publish_duration_seconds_count"+labels+" 2",
		"outbox_retries_total"+labels+" 1",
		"outbox_shards"+labels+" 12", "outbox_relays"+labels+" 3",
		"outbox_broker_up"+labels+" 0", "outbox_broker_outages_total"+labels+" 1", "outbox_broker_reconnects_total"+labels+" 0")
	m.Availability(nil)
	wantLines(t, scrape(t, m), "outbox_broker_up"+labels+" 1", "outbox_broker_reconnects_total"+labels+" 1")
}

// TestRouterHasNoMetricsOfABroker: what it dispatches is published on the routes.
func TestRouterHasNoMetricsOfABroker(t *testing.T) {
	t.Parallel()
	m := promoutbox.New(&promoutbox.Config{Router: true})
	m.Answered(&outbox.Message{}, time.Second, nil)
	m.Answered(&outbox.Message{}, time.Second, errors.New("x"))
	m.Availability(errors.New("x"))
	text := scrape(t, m)
	const labels = `{outbox="",route=""}`
	wantLines(t, text, "outbox_dispatched_total"+labels+" 1", "outbox_relays"+labels+" 0", `outbox_dead_total{outbox="",reason="unrouted",route=""} 0`)
	for _, name := range []string{"published", "refused", "retries", "unavailable", "broker_up", "broker_outages", "broker_reconnects", "publish_duration"} {
		if strings.Contains(text, "outbox_"+name) {
			t.Errorf("there is outbox_%s", name)
		}
	}
	if strings.Contains(scrape(t, promoutbox.New(nil)), "outbox_dispatched") {
		t.Error("a relay with a broker has what a router has")
	}
}

// TestRelayCallsTheHook runs a relay, so that a hook which the relay does not know
// is found.
func TestRelayCallsTheHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		ob := outbox.New(s)
		events := []outbox.Event{{Topic: "good"}, {Topic: "refused"}, {Topic: "away"}, {Topic: "bad"}}
		if err := s.InTx(t.Context(), func(tx *memstore.Tx) error { return ob.Emit(t.Context(), tx, events...) }); err != nil {
			t.Fatal(err)
		}
		answers := map[string]func(error) error{"refused": outbox.Refused, "away": outbox.Unavailable, "bad": outbox.Invalid}
		publish := outbox.PublishFunc(func(_ context.Context, m *outbox.Message) error {
			if answer := answers[m.Topic]; answer != nil {
				if m.Topic == "away" {
					delete(answers, "away")
				}
				return answer(errors.New("x"))
			}
			return nil
		})
		m := promoutbox.New(nil)
		r := relay.New(s, publish, &relay.Config{Hooks: []relay.Hook{m}, MaxAttempts: 1})
		m.Watch(r)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		const labels = `{outbox="",route=""}`
		wantLines(t, scrape(t, m), "outbox_published_total"+labels+" 2", "outbox_refused_total"+labels+" 1", "outbox_unavailable_total"+labels+" 1",
			`outbox_dead_total{outbox="",reason="invalid",route=""} 1`, `outbox_dead_total{outbox="",reason="exhausted",route=""} 1`,
			"outbox_settled_total"+labels+" 2", "outbox_relays"+labels+" 1", "outbox_retries_total"+labels+" 0", "outbox_broker_outages_total"+labels+" 1", "outbox_broker_reconnects_total"+labels+" 1",
			"outbox_relay_ready"+labels+" 1", "outbox_in_flight_messages"+labels+" 0", "outbox_window_messages"+labels+" 1000")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		wantLines(t, scrape(t, m), "outbox_relay_ready"+labels+" 0")
	})
}

func TestStoreMetricsTellTheLastCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeCounter{stats: store.Stats{
			Pending: 7, Waiting: 2, Blocked: 1, Scheduled: 3, Dead: 4, ParkedKeys: 5, Kept: 6, Oldest: time.Minute, OldestDead: time.Hour,
			Routes: []store.RouteStats{{Route: "", Pending: 5, Oldest: time.Minute}, {Route: "audit", Pending: 2, Oldest: time.Second}},
			Pauses: make([]store.Pause, 1), Relays: make([]store.RelayInfo, 2),
		}}
		s := promoutbox.NewStore(f, &promoutbox.Config{Outbox: "shop"})
		if text := scrape(t, s); strings.Contains(text, "outbox_pending") {
			t.Errorf("there are figures before the first count:\n%s", text)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		time.Sleep(5 * time.Second)
		const labels = `{outbox="shop"}`
		wantLines(t, scrape(t, s),
			`outbox_pending_messages{outbox="shop",route=""} 5`, `outbox_pending_messages{outbox="shop",route="audit"} 2`,
			`outbox_oldest_pending_seconds{outbox="shop",route=""} 60`, `outbox_oldest_pending_seconds{outbox="shop",route="audit"} 1`,
			"outbox_retrying_messages"+labels+" 2", "outbox_blocked_messages"+labels+" 1", "outbox_scheduled_messages"+labels+" 3",
			"outbox_dead_messages"+labels+" 4", "outbox_parked_keys"+labels+" 5", "outbox_kept_messages"+labels+" 6", "outbox_pauses"+labels+" 1",
			"outbox_live_relays"+labels+" 2", "outbox_oldest_dead_seconds"+labels+" 3600", "outbox_count_age_seconds"+labels+" 5",
			"outbox_count_duration_seconds"+labels+" 0", "outbox_count_errors_total"+labels+" 0")
		// A route that is empty now does not vanish while it has a relay, one that nobody
		// drains does, and an error keeps the old figures.
		f.answer(store.Stats{Routes: []store.RouteStats{{Route: "typo"}}}, nil)
		time.Sleep(10 * time.Second)
		wantLines(t, scrape(t, s), `outbox_pending_messages{outbox="shop",route="typo"} 0`)
		f.answer(store.Stats{Relays: []store.RelayInfo{{Route: "audit"}}}, nil)
		time.Sleep(10 * time.Second)
		f.answer(store.Stats{}, errors.New("the database is away"))
		time.Sleep(10 * time.Second)
		if text := scrape(t, s); strings.Contains(text, "typo") {
			t.Errorf("a route that is gone has figures for ever:\n%s", text)
		}
		wantLines(t, scrape(t, s), `outbox_pending_messages{outbox="shop",route="audit"} 0`, `outbox_pending_messages{outbox="shop",route=""} 0`,
			"outbox_count_age_seconds"+labels+" 15", "outbox_count_errors_total"+labels+" 1")
		cancel()
		<-ended
	})
}

func TestFiguresAreAsOldAsTheBeginningOfTheirCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := promoutbox.NewStore(&fakeCounter{took: 2 * time.Second}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		time.Sleep(5 * time.Second)
		wantLines(t, scrape(t, s), `outbox_count_age_seconds{outbox=""} 5`, `outbox_count_duration_seconds{outbox=""} 2`)
		cancel()
		<-ended
	})
}

func TestCountingTakesLittleOfTheTime(t *testing.T) {
	for _, tc := range []struct {
		took  time.Duration
		calls int
	}{{0, 360}, {50 * time.Millisecond, 360}, {time.Second, 36}, {30 * time.Second, 24}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeCounter{took: tc.took}
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour-time.Millisecond)
			defer cancel()
			promoutbox.NewStore(f, nil).Run(ctx)
			if len(f.calls) != tc.calls {
				t.Errorf("counts of %v: %d in an hour, want %d", tc.took, len(f.calls), tc.calls)
			}
		})
	}
}

// TestCountsThatFailAreTriedAgain: soon at first, and never much later than that, even
// if each of them ends by its time-out.
func TestCountsThatFailAreTriedAgain(t *testing.T) {
	for took, want := range map[time.Duration][]int{0: {0, 10, 30, 70, 150, 270, 390}, time.Hour: {0, 70, 150, 250, 390, 570}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeCounter{took: took, err: errors.New("the database is away")}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			begun := time.Now()
			go func() { defer close(ended); promoutbox.NewStore(f, nil).Run(ctx) }()
			time.Sleep(575 * time.Second)
			f.answer(store.Stats{}, nil)
			time.Sleep(5 * time.Minute)
			cancel()
			<-ended
			for i, second := range want {
				if at := f.calls[i].Sub(begun); at != time.Duration(second)*time.Second {
					t.Errorf("counts of %v: number %d at %v, want %d s", took, i, at, second)
				}
			}
			if last := len(f.calls) - 1; f.calls[last].Sub(f.calls[last-1]) != 10*time.Second {
				t.Errorf("counts that succeed again are %v apart", f.calls[last].Sub(f.calls[last-1]))
			}
		})
	}
}

func TestReadyTellsAllReasons(t *testing.T) {
	t.Parallel()
	var first, second error
	h := promoutbox.Handler(prometheus.NewRegistry(), func() error { return first }, func() error { return second })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, text := get("/readyz"); code != 200 || text != "ok\n" {
		t.Errorf("ready: %d %q", code, text)
	}
	first, second = errors.New("the broker is away"), errors.New("no lease")
	if code, text := get("/readyz"); code != 503 || text != "the broker is away\nno lease\n" {
		t.Errorf("not ready: %d %q", code, text)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("not alive: %d", code)
	}
	if code, _ := get("/other"); code != 404 {
		t.Errorf("another path: %d", code)
	}
}

func TestNamesAndHelpsAreInPrometheusForm(t *testing.T) {
	t.Parallel()
	m := promoutbox.New(nil)
	m.Watch(relay.New(memstore.New(nil), outbox.PublishFunc(nil), nil))
	s := promoutbox.NewStore(&fakeCounter{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Run(ctx)
	for _, c := range []prometheus.Collector{m, s} {
		problems, err := testutil.CollectAndLint(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	// Several relays and outboxes share a registry.
	scrape(t, m, s, promoutbox.New(&promoutbox.Config{Route: "a"}), promoutbox.New(&promoutbox.Config{Outbox: "b"}),
		promoutbox.NewStore(&fakeCounter{}, &promoutbox.Config{Outbox: "b"}))
}
