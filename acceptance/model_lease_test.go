package acceptance

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/outbox-go/outbox/store"
)

// drawOwner draws a route and one of its two relays.
func drawOwner(t *rapid.T) (route, owner string) {
	route = rapid.SampledFrom(modelRoutes).Draw(t, "route")
	return route, rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "owner") + route
}

// modelLane is what belongs to a route: leases and the relays that are alive.
type modelLane struct {
	leases []modelLease
	alive  map[string]bool
	held   map[string][]store.Lease // what each owner was told last
}

type modelLease struct {
	owner   string
	expired bool
	loose   bool           // expired, and perhaps free by now
	token   int64          // zero where it is not known
	used    map[int64]bool // tokens that are no longer good
}

// doubt is that of all rows when an expired lease is taken from its owner: none of
// those that came after it was free already.
func (l *modelLease) doubt() doubt {
	if l.loose {
		return either
	}
	return doubtful
}

func newModelLane(shards int) *modelLane {
	l := &modelLane{leases: make([]modelLease, shards), alive: map[string]bool{}, held: map[string][]store.Lease{}}
	for i := range l.leases {
		l.leases[i].used = map[int64]bool{}
	}
	return l
}

// believes returns the lease that an owner was told of, which may be lost by now.
func (l *modelLane) believes(owner string, shard uint8) *store.Lease {
	for _, lease := range l.held[owner] {
		if lease.Shard == shard {
			return &lease
		}
	}
	return nil
}

func (l *modelLane) valid(owner string, lease store.Lease) bool {
	have := &l.leases[lease.Shard]
	return have.owner == owner && have.token == lease.Token
}

// bump notes that a shard's token is another now; perhaps, if it need not be.
func (l *modelLane) bump(shard uint8, must bool) {
	lease := &l.leases[shard]
	if must {
		lease.used[lease.token] = true
		lease.token = 0
		return
	}
	for owner := range l.held { // nobody relies on it
		l.held[owner] = slices.DeleteFunc(l.held[owner], func(h store.Lease) bool { return h.Shard == shard })
	}
	lease.token = 0
}

func (l *modelLane) free(shard int, owner string) {
	lease := &l.leases[shard]
	if lease.owner == owner {
		lease.used[lease.token] = true
		lease.owner, lease.token, lease.expired, lease.loose = "", 0, false, false
	}
}

func (l *modelLane) owned(owner string) (set store.ShardSet) {
	for i := range l.leases {
		if l.leases[i].owner == owner {
			set = set.With(uint8(i))
		}
	}
	return set
}

// claim renews and takes leases; some are given back first.
func (m *storeModel) claim(t *rapid.T) { m.claimFor(t, time.Hour) }

// expire claims for a moment, after which the owner is dead.
func (m *storeModel) expire(t *rapid.T) {
	owner, route := m.claimFor(t, m.moment)
	time.Sleep(m.moment + 2*time.Millisecond)
	lane := m.lanes[route]
	delete(lane.alive, owner)
	for i := range lane.leases {
		if lane.leases[i].owner == owner {
			lane.leases[i].expired = true
		}
	}
}

func (m *storeModel) claimFor(t *rapid.T, ttl time.Duration) (owner, route string) {
	route, owner = drawOwner(t)
	release := store.ShardSet(rapid.Uint64().Draw(t, "release")) & store.FirstShards(m.shards)
	if rapid.IntRange(0, 2).Draw(t, "keep all") > 0 {
		release = 0
	}
	m.claimLane(t, owner, route, store.ClaimRequest{Owner: owner, Name: owner, TTL: ttl, Release: release}, 0)
	return owner, route
}

// claimLane claims and compares the answer; wanted are shards that somebody waits
// for.
func (m *storeModel) claimLane(t *rapid.T, owner, route string, r store.ClaimRequest, wanted store.ShardSet) store.Claim {
	lane := m.lanes[route]
	for _, shard := range r.Release.Slice() {
		lane.free(int(shard), owner)
	}
	lane.alive[owner] = true
	before := lane.owned(owner)
	var open store.ShardSet
	for i := range lane.leases {
		if l := &lane.leases[i]; l.owner == "" || l.expired && l.owner != owner {
			open = open.With(uint8(i))
		}
	}
	open = open.Without(wanted)
	claim, err := m.route(route).Claim(never, r)
	ok(t, err, "claim")
	for _, shard := range before.Without(shardsOf(claim.Leases)).Slice() {
		if lane.leases[shard].loose {
			lane.free(int(shard), owner)
			one := store.ShardSet(0).With(uint8(shard)) //nolint:gosec // below 64
			before, open = before.Without(one), open|one.Without(wanted)
		}
	}
	even := m.shards / len(lane.alive)
	if m.shards == 1 { // whoever has it keeps it, and there is nothing to share
		even = len(claim.Leases)
	}
	if claim.Relays != len(lane.alive) || claim.Target < even || claim.Target > even+1 {
		t.Fatalf("the claim says %d relays and a target of %d, want %d relays and about %d", claim.Relays, claim.Target, len(lane.alive), even)
	}
	want := max(before.Len(), min(claim.Target, before.Len()+open.Len()))
	if m.shards == 1 {
		want = before.Len() + open.Len()
	}
	if len(claim.Leases) != want {
		t.Fatalf("%s holds %d shards, want %d: %d before, %d were free, target %d", owner, len(claim.Leases), want, before.Len(), open.Len(), claim.Target)
	}
	for _, lease := range claim.Leases {
		m.granted(t, lane, owner, lease, before, open)
	}
	if missing := before.Without(shardsOf(claim.Leases)); missing != 0 {
		t.Fatalf("%s has lost the shards %v", owner, missing.Slice())
	}
	lane.held[owner] = claim.Leases
	return claim
}

func (m *storeModel) granted(t *rapid.T, lane *modelLane, owner string, lease store.Lease, before, open store.ShardSet) {
	have := &lane.leases[lease.Shard]
	switch {
	case !before.Has(lease.Shard) && !open.Has(lease.Shard):
		t.Fatalf("%s got shard %d, which is %q's", owner, lease.Shard, have.owner)
	case have.used[lease.Token]:
		t.Fatalf("shard %d has the token %d again", lease.Shard, lease.Token)
	case have.owner == owner && have.token != 0 && have.token != lease.Token:
		t.Fatalf("shard %d of %s was renewed with another token", lease.Shard, owner)
	case have.owner != owner && have.token == lease.Token:
		t.Fatalf("shard %d changed hands and kept its token", lease.Shard)
	}
	if have.expired && have.owner != owner {
		have.used[have.token] = true
		m.doubtAll(lane, lease.Shard, have.doubt())
	}
	have.owner, have.token, have.expired, have.loose = owner, lease.Token, false, false
}

// doubtAll notes that whatever is pending in a shard may have been sent.
func (m *storeModel) doubtAll(lane *modelLane, shard uint8, level doubt) {
	mark := func(rows []*modelRow, d doubt) {
		for _, r := range rows {
			if m.lanes[r.message.Route] == lane && r.shard == shard && r.position != 0 {
				r.doubt = max(r.doubt, d)
			}
		}
	}
	mark(m.rows, level)
	mark(m.dead, either)
	for _, o := range m.open { // their shards are not known yet
		for _, r := range o.rows {
			r.doubt = max(r.doubt, either)
		}
	}
}

func shardsOf(leases []store.Lease) (set store.ShardSet) {
	for _, l := range leases {
		set = set.With(l.Shard)
	}
	return set
}

func (m *storeModel) leave(t *rapid.T) {
	route, owner := drawOwner(t)
	lane := m.lanes[route]
	ok(t, m.route(route).Leave(never, owner, nil), "leave")
	for i := range lane.leases {
		lane.free(i, owner)
	}
	delete(lane.alive, owner)
}

// withdraw takes all steps of withdrawing a message.
func (m *storeModel) withdraw(t *rapid.T) {
	all := slices.Concat(m.rows, m.later, m.dead, m.sent)
	id := pick(t, all, 1, "messages")[0].message.ID
	const who = "cancel"
	got, err := m.admin.Withdraw(never, id, who)
	ok(t, err, "withdraw")
	rows := m.ofID(m.rows, id)
	for _, r := range rows {
		lane := m.lanes[r.message.Route]
		switch l := &lane.leases[r.shard]; {
		case l.owner == "":
		case l.expired && len(rows) > 1: // the answer for another row may do, and nothing happens here
			m.doubtAll(lane, r.shard, either)
			lane.bump(r.shard, false)
			l.loose = true
		case l.expired:
			m.doubtAll(lane, r.shard, l.doubt())
			lane.free(int(r.shard), l.owner)
		case got != store.Asked && got != store.TooLate && got != store.IsDead:
			t.Fatalf("%v has a relay, but the answer is %q", r, got)
		case got == store.Asked:
			m.giveBack(t, r, l.owner)
		}
	}
	if got == store.Asked {
		got, err = m.admin.Withdraw(never, id, who)
		ok(t, err, "withdraw again")
	}
	m.wantWithdrawal(t, id, got)
	ok(t, m.admin.LetGo(never, who), "let go")
}

// giveBack has the owner learn that a row's shard is wanted, and give it back with
// or without doubt.
func (m *storeModel) giveBack(t *rapid.T, r *modelRow, owner string) {
	lane, shard := m.lanes[r.message.Route], store.ShardSet(0).With(r.shard)
	claim := m.claimLane(t, owner, r.message.Route, store.ClaimRequest{Owner: owner, Name: owner, TTL: time.Hour}, shard)
	if !claim.Wanted.Has(r.shard) {
		t.Fatalf("the owner of shard %d is not told that it is wanted", r.shard)
	}
	request := store.ClaimRequest{Owner: owner, Name: owner, TTL: time.Hour, Release: shard}
	if rapid.Bool().Draw(t, "in doubt") {
		request.Doubt = map[uint8]int64{r.shard: r.position}
		for _, other := range slices.Concat(m.rows, m.dead) {
			if m.lanes[other.message.Route] == lane && other.shard == r.shard && other.position <= r.position && other.position != 0 {
				other.doubt = doubtful
			}
		}
		for _, o := range m.open {
			for _, other := range o.rows {
				other.doubt = max(other.doubt, either)
			}
		}
	}
	m.claimLane(t, owner, r.message.Route, request, shard)
}

func (m *storeModel) ofID(rows []*modelRow, id string) (found []*modelRow) {
	for _, r := range rows {
		if r.message.ID == id {
			found = append(found, r)
		}
	}
	return found
}

func (m *storeModel) wantWithdrawal(t *rapid.T, id string, got store.Withdrawal) {
	pending, later := m.ofID(m.rows, id), m.ofID(m.later, id)
	allowed := map[store.Withdrawal]bool{}
	certain := sure
	for _, r := range pending {
		certain = max(certain, r.doubt)
	}
	if len(m.ofID(m.sent, id)) > 0 || certain == doubtful || certain == either {
		allowed[store.TooLate] = true
	}
	if len(m.ofID(m.dead, id)) > 0 {
		allowed[store.IsDead] = true
	}
	if len(allowed) == 0 || len(allowed) == 1 && certain == either && len(m.ofID(m.sent, id)) == 0 {
		allowed[store.Withdrawn] = true
	}
	if !allowed[got] {
		t.Fatalf("withdrawing %s answers %q, want one of %v: %d pending, doubt %d, %d dead, %d sent",
			id, got, allowed, len(pending), certain, len(m.ofID(m.dead, id)), len(m.ofID(m.sent, id)))
	}
	if got == store.Withdrawn {
		m.rows, m.later = without(m.rows, pending), without(m.later, later)
	}
}
