package storetest

import (
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func withdrawCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Withdraw/NobodyDrains", run: withdrawFree[Tx]},
		{name: "Withdraw/Scheduled", run: withdrawScheduled[Tx]},
		{name: "Withdraw/DeadOrSentOrAbsent", run: withdrawOthers[Tx]},
		{name: "Withdraw/AsksTheOwner", run: withdrawAsks[Tx]},
		{name: "Withdraw/WantedIsNotAcquired", run: withdrawWanted[Tx]},
		{name: "Withdraw/LetGoOfOnesOwn", run: withdrawLetGo[Tx]},
		{name: "Withdraw/RefusedBeforeIsNotSent", run: withdrawRefused[Tx]},
		{name: "Withdraw/OneRouteIsHeld", run: withdrawRoutes[Tx]},
		{name: "Withdraw/OneRouteIsInDoubt", run: withdrawRouteDoubt[Tx]},
		{name: "Withdraw/OneRouteIsInTheHistory", run: withdrawRouteSent[Tx]},
		{name: "Withdraw/AtTheSameTime", run: withdrawConcurrently[Tx]},
	}
}

func (e *env[Tx]) withdraw(id, who string) store.Withdrawal {
	e.t.Helper()
	w, err := e.Store.Withdraw(e.ctx, id, who)
	e.ok(err, "withdraw")
	return w
}

func (e *env[Tx]) wantWithdrawal(id, who string, want store.Withdrawal) {
	e.t.Helper()
	if got := e.withdraw(id, who); got != want {
		e.t.Fatalf("withdraw answered %q, want %q", got, want)
	}
}

func (e *env[Tx]) letGo(who string) {
	e.t.Helper()
	e.ok(e.Store.LetGo(e.ctx, who), "let go")
}

func withdrawFree[Tx any](e *env[Tx]) {
	msgs := e.emitTo("", numbered(3)...)
	e.wantWithdrawal(msgs[1].ID, "me", store.Withdrawn)
	e.wantPending("t.0", "t.2")
	e.wantListed(store.Dead)
	e.wantListed(store.Sent)
	e.wantWithdrawal(msgs[1].ID, "me", store.Absent)
	e.letGo("me")
	e.letGo("nobody")
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.ok(e.Store.Leave(e.ctx, "relay", nil), "leave")
	e.wantWithdrawal(msgs[2].ID, "me", store.Withdrawn)
	e.wantPending("t.0")
}

func withdrawScheduled[Tx any](e *env[Tx]) {
	at := time.Now().Add(-time.Hour)
	msgs := e.emitTo("", outbox.Event{Topic: "a", DeliverAt: at}, outbox.Event{Topic: "b", DeliverAt: at})
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.wantWithdrawal(msgs[0].ID, "me", store.Withdrawn)
	e.wantListed(store.Scheduled, "b")
	e.promote(10, 1)
	e.wantPending("b")
	e.wantWithdrawal(msgs[1].ID, "me", store.Asked)
}

func withdrawOthers[Tx any](e *env[Tx]) {
	msgs := e.emitTo("", numbered(2)...)
	rows := e.pending()
	c := e.claim(store.ClaimRequest{Owner: "relay"})
	e.bury(c, store.Exhausted, false, rows[0])
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[1:]), true), "settle")
	e.wantWithdrawal(msgs[0].ID, "me", store.IsDead)
	e.wantWithdrawal(msgs[1].ID, "me", store.TooLate)
	e.wantWithdrawal(otherID, "me", store.Absent)
	e.wantListed(store.Dead, "t.0")
	e.wantListed(store.Sent, "t.1")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); c.Wanted != 0 {
		e.t.Fatalf("%d shards are wanted, want none", c.Wanted.Len())
	}
}

func withdrawAsks[Tx any](e *env[Tx]) {
	id := e.emitTo("", outbox.Event{Topic: "a", Key: "k"})[0].ID
	shards := shardsOfRows(e.pending())
	before := e.claim(store.ClaimRequest{Owner: "relay"})
	if before.Wanted != 0 {
		e.t.Fatalf("%d shards are wanted, want none", before.Wanted.Len())
	}
	other := *e
	other.Store = e.Open(e.t)
	other.wantWithdrawal(id, "me", store.Asked)
	other.wantWithdrawal(id, "me", store.Asked)
	e.wantPending("a")
	c := e.claim(store.ClaimRequest{Owner: "relay"})
	e.sameLeases(c, before)
	if c.Wanted != shards {
		e.t.Fatalf("the wanted shards are %v, want %v", c.Wanted.Slice(), shards.Slice())
	}
	e.claim(store.ClaimRequest{Owner: "relay", Release: shards})
	other.wantWithdrawal(id, "me", store.Withdrawn)
	e.wantPending()
	other.letGo("me")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards || c.Wanted != 0 {
		e.t.Fatalf("%d leases, %d shards wanted, want all and none", len(c.Leases), c.Wanted.Len())
	}
}

// withdrawWanted: nobody takes what was given back for somebody else.
func withdrawWanted[Tx any](e *env[Tx]) {
	id := e.emitTo("", outbox.Event{Topic: "a", Key: "k"})[0].ID
	shards := shardsOfRows(e.pending())
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.wantWithdrawal(id, "me", store.Asked)
	c := e.claim(store.ClaimRequest{Owner: "relay", Release: shards})
	rest := e.all().Without(shards)
	if shardsOf(c.Leases) != rest {
		e.t.Fatalf("the relay has %d shards, want all but the one that it gave back", len(c.Leases))
	}
	for _, r := range []store.ClaimRequest{{Owner: "relay"}, {Owner: "other"}, {Owner: "guest", Guest: true}} {
		if c := e.claim(r); shardsOf(c.Leases)&shards != 0 {
			e.t.Fatalf("%s got the shard that somebody waits for", r.Owner)
		}
	}
	e.letGo("me")
	if c := e.guest("guest"); shardsOf(c.Leases) != shards {
		e.t.Fatalf("a guest has %d shards, want the one that was let go", len(c.Leases))
	}
	e.wantPending("a")
}

func withdrawLetGo[Tx any](e *env[Tx]) {
	msgs := e.emitTo("", outbox.Event{Topic: "a", Key: "k"}, outbox.Event{Topic: "b", Key: "k"})
	shards := shardsOfRows(e.pending())
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.wantWithdrawal(msgs[0].ID, "me", store.Asked)
	e.wantWithdrawal(msgs[1].ID, "you", store.Asked)
	e.letGo("you")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); c.Wanted != shards {
		e.t.Fatalf("the wanted shards are %v, want %v", c.Wanted.Slice(), shards.Slice())
	}
	e.letGo("me")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); c.Wanted != 0 {
		e.t.Fatalf("%d shards are wanted, want none", c.Wanted.Len())
	}
	e.wantWithdrawal(msgs[1].ID, "you", store.Asked)
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); c.Wanted != shards {
		e.t.Fatalf("the wanted shards are %v, want %v", c.Wanted.Slice(), shards.Slice())
	}
}

// withdrawRefused: a refusal is an answer, so nothing was sent.
func withdrawRefused[Tx any](e *env[Tx]) {
	msgs := e.emitTo("", numbered(2)...)
	c := e.claim(store.ClaimRequest{Owner: "relay"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	e.ok(e.Store.Leave(e.ctx, "relay", nil), "leave")
	e.wantWithdrawal(msgs[0].ID, "me", store.Withdrawn)
	e.wantWithdrawal(msgs[1].ID, "me", store.Withdrawn)
	e.wantPending()
}

// onTwoRoutes emits a message with a copy on each of the routes "a" and "b".
func (e *env[Tx]) onTwoRoutes() (id string, a, b *env[Tx]) {
	e.t.Helper()
	msgs, err := e.ob.Prepare(e.ctx, outbox.Event{Topic: "both", Key: "k"})
	e.ok(err, "prepare")
	msgs = append(msgs, msgs[0])
	msgs[0].Route, msgs[1].Route = "a", "b"
	e.insert(msgs...)
	return msgs[0].ID, e.route("a"), e.route("b")
}

// withdrawRoutes: all copies go together, or none.
func withdrawRoutes[Tx any](e *env[Tx]) {
	id, a, b := e.onTwoRoutes()
	shards := shardsOfRows(b.pending())
	b.claim(store.ClaimRequest{Owner: "relay"})
	e.wantWithdrawal(id, "me", store.Asked)
	a.wantPending("both")
	b.wantPending("both")
	if c := b.claim(store.ClaimRequest{Owner: "relay"}); c.Wanted != shards {
		e.t.Fatalf("the wanted shards are %v, want %v", c.Wanted.Slice(), shards.Slice())
	}
	if c := a.claim(store.ClaimRequest{Owner: "late"}); shardsOf(c.Leases)&shards != 0 {
		e.t.Fatal("a relay got the shard of the other copy, which somebody waits for, too")
	}
	b.claim(store.ClaimRequest{Owner: "relay", Release: shards})
	e.wantWithdrawal(id, "me", store.Withdrawn)
	a.wantPending()
	b.wantPending()
}

func withdrawRouteDoubt[Tx any](e *env[Tx]) {
	id, a, b := e.onTwoRoutes()
	row := b.pending()[0]
	b.claim(store.ClaimRequest{Owner: "relay"})
	e.ok(b.Store.Leave(e.ctx, "relay", map[uint8]int64{row.Shard: row.Position}), "leave")
	e.wantWithdrawal(id, "me", store.TooLate)
	a.wantPending("both")
	b.wantPending("both")
}

func withdrawRouteSent[Tx any](e *env[Tx]) {
	id, a, b := e.onTwoRoutes()
	e.ok(b.Store.Settle(e.ctx, refsOf(b.pending()), true), "settle")
	e.wantWithdrawal(id, "me", store.TooLate)
	a.wantPending("both")
}

// withdrawConcurrently: a message is withdrawn once, and what relays claim
// meanwhile is never deleted under them.
func withdrawConcurrently[Tx any](e *env[Tx]) {
	const n = 8
	msgs := e.emitTo("", numbered(n)...)
	other := e.Open(e.t)
	answers := make([][2]store.Withdrawal, n)
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			for j, s := range []Store[Tx]{e.Store, other} {
				w, err := s.Withdraw(e.ctx, msgs[i].ID, fmt.Sprint("who", i))
				if answers[i][j] = w; err != nil {
					errs[i] = err
				}
			}
		})
	}
	group.Wait()
	for i := range n {
		e.ok(errs[i], "withdraw")
		if answers[i] != [2]store.Withdrawal{store.Withdrawn, store.Absent} {
			e.t.Fatalf("message %d: %q, want that it is withdrawn and then absent", i, answers[i])
		}
	}
	e.wantPending()
}
