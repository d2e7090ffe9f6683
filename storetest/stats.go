package storetest

import (
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func statsCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Stats/Empty", run: statsEmpty[Tx]},
		{name: "Stats/Counts", run: statsCounts[Tx]},
		{name: "Stats/Ages", run: statsAges[Tx]},
		{name: "Stats/AgesOfScheduled", run: statsScheduledAge[Tx]},
		{name: "Stats/Routes", run: statsRoutes[Tx]},
		{name: "Stats/Relays", run: statsRelays[Tx]},
	}
}

func (e *env[Tx]) stats() store.Stats {
	e.t.Helper()
	s, err := e.Store.Stats(e.ctx)
	e.ok(err, "stats")
	return s
}

func statsEmpty[Tx any](e *env[Tx]) {
	s := e.stats()
	if s.Pending+s.Waiting+s.Blocked+s.Scheduled+s.Dead+s.ParkedKeys != 0 || s.Kept < 0 || s.Oldest != 0 || s.OldestDead != 0 {
		e.t.Fatalf("an empty outbox has %+v", s)
	}
	if len(s.Routes)+len(s.Relays)+len(s.Pauses) != 0 {
		e.t.Fatalf("an empty outbox has %+v", s)
	}
}

func statsCounts[Tx any](e *env[Tx]) {
	e.send("sent", 2)
	e.emit(numbered(8)...)
	e.emit(outbox.Event{Topic: "a", Key: "k"}, outbox.Event{Topic: "b", Key: "k"}, outbox.Event{Topic: "c", Key: "k", Tenant: "x"}, outbox.Event{Topic: "d", Key: "j"})
	e.emit(outbox.Event{Topic: "later", DeliverAt: time.Now().Add(time.Hour)})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	e.fail(e.failure(c, &rows[2]))
	due := e.failure(c, &rows[3])
	due.RetryIn = 0
	e.fail(due)
	e.bury(c, store.Exhausted, true, rows[8:11]...)
	e.bury(c, store.Exhausted, false, rows[11])
	if _, err := e.Store.Pause(e.ctx, store.Pause{Topic: "a"}); err != nil {
		e.t.Fatal(err)
	}
	s := e.stats()
	if s.Pending != 8 || s.Waiting != 2 || s.Blocked != 1 || s.Scheduled != 1 || s.Dead != 4 || s.ParkedKeys != 2 {
		e.t.Fatalf("%+v, want 8 pending, of these 2 waiting and 1 blocked, 1 scheduled, 4 dead, 2 parked keys", s)
	}
	if len(s.Pauses) != 1 || s.Pauses[0].Topic != "a" {
		e.t.Fatalf("the pauses are %+v, want one", s.Pauses)
	}
}

func statsAges[Tx any](e *env[Tx]) {
	msgs, err := e.ob.Prepare(e.ctx, numbered(3)...)
	e.ok(err, "prepare")
	for i := range msgs {
		msgs[i].CreatedAt = time.Now().Add(-time.Duration(i+1) * time.Hour)
	}
	e.insert(msgs...)
	if s := e.stats(); s.Oldest < 3*time.Hour-time.Minute || s.Oldest > 3*time.Hour+time.Minute || s.OldestDead != 0 {
		e.t.Fatalf("the oldest is %v, the oldest dead letter %v old, want 3 hours and none", s.Oldest, s.OldestDead)
	}
	c := e.claim(store.ClaimRequest{Owner: "first"})
	e.bury(c, store.Invalid, false, e.pending()[2])
	e.eventually("the dead letter has an age", func() bool { return e.stats().OldestDead > 0 })
	if s := e.stats(); s.Oldest < 2*time.Hour-time.Minute || s.Oldest > 2*time.Hour+time.Minute || s.OldestDead > 5*time.Minute {
		e.t.Fatalf("the oldest is %v, the oldest dead letter %v old, want 2 hours and no time", s.Oldest, s.OldestDead)
	}
}

// statsScheduledAge: a message that was scheduled is not late before it is due.
func statsScheduledAge[Tx any](e *env[Tx]) {
	msgs, err := e.ob.Prepare(e.ctx, outbox.Event{Topic: "due", DeliverAt: time.Now().Add(-time.Hour)})
	e.ok(err, "prepare")
	msgs[0].CreatedAt = time.Now().Add(-30 * 24 * time.Hour)
	e.insert(msgs...)
	e.promote(10, 1)
	e.emit(numbered(1)...)
	s := e.stats()
	for _, oldest := range []time.Duration{s.Oldest, s.Routes[0].Oldest} {
		if oldest < time.Hour-time.Minute || oldest > time.Hour+time.Minute {
			e.t.Fatalf("the oldest is %v old, want the hour since it was due", oldest)
		}
	}
}

func statsRoutes[Tx any](e *env[Tx]) {
	e.emitTo("b", numbered(2)...)
	msgs, err := e.ob.Prepare(e.ctx, outbox.Event{Topic: "old"})
	e.ok(err, "prepare")
	msgs[0].Route, msgs[0].CreatedAt = "a", time.Now().Add(-time.Hour)
	e.insert(msgs...)
	e.emit(numbered(3)...)
	s := e.stats()
	var got []string
	pending := map[string]int64{}
	for _, route := range s.Routes {
		got = append(got, route.Route)
		pending[route.Route] = route.Pending
	}
	if !slices.Equal(got, []string{"", "a", "b"}) || pending[""] != 3 || pending["a"] != 1 || pending["b"] != 2 || s.Pending != 6 {
		e.t.Fatalf("%d are pending, by route %+v, want 6: 3, 1 and 2", s.Pending, s.Routes)
	}
	if s.Routes[1].Oldest < 50*time.Minute || s.Routes[2].Oldest > 5*time.Minute || s.Oldest < 50*time.Minute {
		e.t.Fatalf("the oldest are %v and %v old, want an hour and no time", s.Routes[1].Oldest, s.Routes[2].Oldest)
	}
}

func statsRelays[Tx any](e *env[Tx]) {
	e.claim(store.ClaimRequest{Owner: "dead", Name: "c", TTL: time.Millisecond})
	e.eventually("the dead one is gone", func() bool { return len(e.stats().Relays) == 0 })
	e.ok(e.Store.Leave(e.ctx, "dead", nil), "leave")
	e.claim(store.ClaimRequest{Owner: "1", Name: "b", Rate: 12.5})
	e.route("side").claim(store.ClaimRequest{Owner: "2", Name: "a", Most: 1, TTL: time.Hour})
	e.guest("guest")
	relays := e.stats().Relays
	if len(relays) != 2 {
		e.t.Fatalf("%d relays, want 2", len(relays))
	}
	side, first := relays[0], relays[1]
	if side.ID != "2" || side.Name != "a" || side.Route != "side" || side.Shards != 1 || side.Left <= time.Minute || side.Left > time.Hour {
		e.t.Errorf("the relay of the route is %+v", side)
	}
	if first.ID != "1" || first.Name != "b" || first.Route != "" || first.Shards != e.Features.Shards || first.Rate != 12.5 || first.Left > time.Minute {
		e.t.Errorf("the relay is %+v", first)
	}
	if age := time.Since(first.Since).Abs(); age > 5*time.Minute || first.Since.Location() != time.UTC {
		e.t.Errorf("it runs since %v, want now, in UTC", first.Since)
	}
	e.ok(e.Store.Leave(e.ctx, "1", nil), "leave")
	if relays := e.stats().Relays; len(relays) != 1 || relays[0].ID != "2" {
		e.t.Fatalf("the relays are %+v, want the one that stays", relays)
	}
}
