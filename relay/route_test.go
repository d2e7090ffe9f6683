package relay_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
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

func TestRoutesTakeWhatMeetsAllTheirConditions(t *testing.T) {
	t.Parallel()
	match := relay.Match([]relay.Route{
		{Name: "all"},
		{Name: "orders", Topics: []string{"order.*", "refund.#"}},
		{Name: "big", Tenants: []string{"x", "y"}},
		{Name: "eu", Headers: map[string]string{"region": "eu", "kind": ""}},
		{Name: "narrow", Topics: []string{"order.#"}, Tenants: []string{"x"}, Headers: map[string]string{"region": "eu"}},
		{Name: "orders", Tenants: []string{"x"}}, // the same by another way
	})
	eu := map[string]string{"region": "eu", "kind": "", "more": "m"}
	for _, c := range []struct {
		m    outbox.Message
		want string
	}{
		{outbox.Message{Topic: "user"}, "all"},
		{outbox.Message{Topic: "order.placed"}, "all orders"},
		{outbox.Message{Topic: "refund"}, "all orders"},
		{outbox.Message{Topic: "order.placed.late"}, "all"},
		{outbox.Message{Topic: "user", Tenant: "y"}, "all big"},
		{outbox.Message{Topic: "user", Tenant: "x"}, "all big orders"},
		{outbox.Message{Topic: "user", Headers: eu}, "all eu"},
		{outbox.Message{Topic: "user", Headers: map[string]string{"region": "eu"}}, "all"}, // kind is not there
		{outbox.Message{Topic: "user", Headers: map[string]string{"region": "us", "kind": ""}}, "all"},
		{outbox.Message{Topic: "order.placed", Tenant: "x", Headers: eu}, "all orders big eu narrow"},
		{outbox.Message{Topic: "order.placed", Tenant: "y", Headers: eu}, "all orders big eu"},
	} {
		if got := strings.Join(match(&c.m), " "); got != c.want {
			t.Errorf("%+v takes %q, want %q", c.m, got, c.want)
		}
	}
	if got := relay.Match([]relay.Route{{Name: "x", Topics: []string{"a"}}})(&outbox.Message{Topic: "b"}); got != nil {
		t.Errorf("what none takes has the routes %q", got)
	}
}

func TestRouterReportsAllFaultsOfItsRoutes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		routes []relay.Route
		want   []string
	}{
		{nil, []string{"routes are empty"}},
		{[]relay.Route{{}, {Name: "a b", Topics: []string{"x", "y..z"}}}, []string{
			`route 0: Name "" is empty`, `route 1: Name "a b" has the character`, `route 1: Topics has "y..z", which has an empty word`, "Window is -1",
		}},
	} {
		err := relay.NewRouter(memstore.New(nil), c.routes, &relay.Config{Window: -1}).Run(t.Context())
		for _, part := range c.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("the error lacks %q: %v", part, err)
			}
		}
	}
	if err := relay.NewRouter(nil, []relay.Route{{Name: "a"}}, nil).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "store is nil") {
		t.Errorf("without a store: %v", err)
	}
}

// startRouter runs a router in a bubble, and returns what stops it.
func (b *bench) startRouter(s relay.Store, routes ...relay.Route) (stop func() error) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- relay.NewRouter(s, routes, quiet()).Run(ctx) }()
	b.t.Cleanup(cancel)
	return func() error { cancel(); return <-done }
}

func TestRouterGivesEachRouteACopyInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		stop := b.startRouter(b.store, relay.Route{Name: "all"}, relay.Route{Name: "odd", Topics: []string{"odd"}})
		for _, topic := range []string{"odd", "even", "odd", "even"} {
			b.emitKeys(topic, "a", "b", "c")
		}
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for route, want := range map[string]int{"": 0, "all": 12, "odd": 6} {
			broker := membroker.New()
			broker.Declare("all", "#")
			_, stop := b.startOn(b.store.Route(route), broker.Publisher(), nil)
			time.Sleep(time.Minute)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			got, last := broker.Messages("all"), map[string]string{}
			if len(got) != want {
				t.Errorf("route %q has %d messages, want %d", route, len(got), want)
			}
			for _, m := range got {
				if last[m.Key] >= string(m.Payload) || route == "odd" && m.Topic != "odd" {
					t.Errorf("route %q: %s %s after %s", route, m.Key, m.Payload, last[m.Key])
				}
				last[m.Key] = string(m.Payload)
			}
		}
	})
}

func TestRouterMakesADeadLetterOfWhatNoRouteTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.startRouter(b.store, relay.Route{Name: "a", Topics: []string{"taken"}})
		b.emitKeys("stray", "k")
		b.emitKeys("taken", "k")
		time.Sleep(time.Minute)
		dead, err := b.store.List(t.Context(), store.Query{State: store.Dead, Limit: 10})
		if err != nil || len(dead) != 1 || dead[0].Topic != "stray" || dead[0].Reason != store.Unrouted || dead[0].LastError != "no route takes it" {
			t.Errorf("dead letters %+v, %v", dead, err)
		}
		name := "a"
		if list, err := b.store.List(t.Context(), store.Query{State: store.Pending, Route: &name, Limit: 10}); err != nil || len(list) != 1 {
			t.Errorf("route a has %d, %v", len(list), err)
		}
	})
}

// dispatcher is a store that counts how it is asked to dispatch, and fails as told.
type dispatcher struct {
	*memstore.Store
	sizes []int
	away  atomic.Bool
}

func (d *dispatcher) Dispatch(ctx context.Context, dispatches []store.Dispatch) error {
	d.sizes = append(d.sizes, len(dispatches))
	if d.away.Load() {
		return errors.New("no connection")
	}
	return d.Store.Dispatch(ctx, dispatches)
}

func TestRouterDispatchesManyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emitMany(2000, 2000)
		d := &dispatcher{Store: b.store}
		stop := b.startRouter(d, relay.Route{Name: "a"})
		time.Sleep(time.Minute)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, n := range d.sizes {
			total += n
		}
		if total != 2000 || slices.Max(d.sizes) != 500 || len(d.sizes) > 10 {
			t.Errorf("dispatched %v, want 2000 by few calls of at most 500", d.sizes)
		}
	})
}

func TestRouterTriesAgainWhenTheStoreIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emit(5, 5)
		d := &dispatcher{Store: b.store}
		d.away.Store(true)
		b.startRouter(d, relay.Route{Name: "a"})
		time.Sleep(time.Hour)
		d.away.Store(false)
		time.Sleep(time.Minute)
		list, err := b.store.List(t.Context(), store.Query{State: store.Pending, Limit: 10})
		if err != nil || len(list) != 5 || list[0].Route != "a" || list[0].Attempts != 0 {
			t.Errorf("pending %+v, %v", list, err)
		}
	})
}

// stopper stops a relay when it is about to publish the tenth message.
type stopper struct {
	stop func()
	n    int
}

func (s *stopper) Publishing(*outbox.Message) {
	if s.n++; s.n == 10 {
		s.stop()
	}
}

func TestRouterThatIsStoppedLeavesNothingUnanswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.emit(100, 100)
		ctx, cancel := context.WithCancel(t.Context())
		config := quiet()
		config.Hooks = []relay.Hook{&stopper{stop: cancel}}
		began := time.Now()
		err := relay.NewRouter(b.store, []relay.Route{{Name: "a"}}, config).Run(ctx)
		if err != nil || time.Since(began) > time.Second {
			t.Errorf("stopped after %v: %v", time.Since(began), err)
		}
		name := "a"
		if list, err := b.store.List(t.Context(), store.Query{State: store.Pending, Route: &name, Limit: 100}); err != nil || len(list) != 10 {
			t.Errorf("route a has %d, %v", len(list), err)
		}
	})
}

// TestRouteThatLeadsToItself is refused: the copies would never end.
func TestRouteThatLeadsToItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		r := relay.NewRouter(s.Route("a"), []relay.Route{{Name: "a"}}, &relay.Config{Logger: slog.New(slog.DiscardHandler)})
		ob := outbox.New(s, outbox.WithRoutes(func(*outbox.Message) []string { return []string{"a"} }))
		if err := ob.InTx(t.Context(), func(tx *memstore.Tx) error {
			return ob.Emit(t.Context(), tx, outbox.Event{Topic: "t", Payload: 1})
		}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_ = r.Run(ctx)
		dead, err := s.List(t.Context(), store.Query{State: store.Dead, Limit: 10})
		if err != nil || len(dead) != 1 || dead[0].Reason != store.Unrouted || !strings.Contains(dead[0].LastError, "leads to itself") {
			t.Fatalf("the dead letters are %+v (%v)", dead, err)
		}
	})
}
