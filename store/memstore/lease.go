package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// lease says who drains a shard; nobody if owner is empty.
type lease struct {
	owner   string
	token   int64
	expires time.Time
	doubt   int64 // the greatest position that may have been sent
	tx      *Tx   // which keeps all others from it until it ends; nil for none

	wantedBy string // to withdraw a message
	wanted   time.Time
}

// free tells whether the lease can be acquired by tx, nil for none.
func (l *lease) free(tx *Tx, now time.Time) bool {
	return (l.tx == nil || l.tx == tx) && !l.held(now) && !l.wanted.After(now)
}

func (l *lease) held(now time.Time) bool {
	return l.owner != "" && l.expires.After(now)
}

// giveUp frees a lease. Of one that has expired nobody says what was sent: all up
// to last may have been.
func (l *lease) giveUp(now time.Time, last int64) {
	if l.owner != "" && !l.expires.After(now) {
		l.doubt = max(l.doubt, last)
	}
	l.owner = ""
}

// member is a relay that is alive until it expires.
type member struct {
	owner   string
	name    string
	most    int
	rate    float64
	joined  int64
	since   time.Time
	expires time.Time
}

// Claim renews the owner's leases and takes free ones up to its share.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	if err := ctx.Err(); err != nil {
		return store.Claim{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claim(&r, nil, time.Now()), nil
}

func (s *Store) claim(r *store.ClaimRequest, tx *Tx, now time.Time) store.Claim {
	l := s.lane(s.route)
	s.release(l, r.Owner, r.Release, r.Doubt, tx)
	l.forget(r.Owner, now)
	target := s.shards
	switch {
	case !r.Guest:
		s.noteAlive(l, r, now)
		target = l.share(r.Owner, s.shards)
	case r.Most > 0:
		target = min(r.Most, s.shards)
	}
	claim := s.acquire(l, r, tx, target, now)
	claim.Target, claim.Relays = target, len(l.relays)
	if r.Guest {
		claim.Target = len(claim.Leases)
	}
	return claim
}

// acquire renews what the owner holds and takes what is free, up to target.
func (s *Store) acquire(l *lane, r *store.ClaimRequest, tx *Tx, target int, now time.Time) (claim store.Claim) {
	held := l.owned(r.Owner, s.shards, tx)
	for i := range l.leases[:s.shards] {
		lease, shard := &l.leases[i], uint8(i) //nolint:gosec // below 64
		switch {
		case held.Has(shard):
		case held.Len() < target && lease.free(tx, now):
			tx.lock(lease)
			lease.giveUp(now, s.last)
			s.tokens++
			lease.owner, lease.token = r.Owner, s.tokens
			held = held.With(shard)
		default:
			continue
		}
		tx.lock(lease)
		lease.expires = now.Add(r.TTL)
		if lease.wanted.After(now) {
			claim.Wanted = claim.Wanted.With(shard)
		}
		claim.Leases = append(claim.Leases, store.Lease{Shard: shard, Token: lease.token})
	}
	return claim
}

// Leave gives back the owner's leases and forgets it.
func (s *Store) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lane(s.route)
	s.release(l, owner, store.FirstShards(s.shards), doubt, nil)
	delete(l.relays, owner)
	return nil
}

// release gives back those of shards that the owner has, and notes what is in doubt
// of those that it has or had until now.
func (s *Store) release(l *lane, owner string, shards store.ShardSet, doubt map[uint8]int64, tx *Tx) {
	for _, i := range l.owned(owner, s.shards, tx).Slice() {
		lease, shard := &l.leases[i], uint8(i) //nolint:gosec // below 64
		tx.lock(lease)
		lease.doubt = max(lease.doubt, doubt[shard])
		if shards.Has(shard) {
			lease.owner = ""
		}
	}
}

// noteAlive enters the relay that claims.
func (s *Store) noteAlive(l *lane, r *store.ClaimRequest, now time.Time) {
	m := l.relays[r.Owner]
	if m == nil {
		s.joined++
		m = &member{owner: r.Owner, joined: s.joined, since: now}
		l.relays[r.Owner] = m
	}
	m.name, m.most, m.rate, m.expires = r.Name, r.Most, r.Rate, now.Add(r.TTL)
}

// forget drops the relays that are dead, all but one.
func (l *lane) forget(except string, now time.Time) {
	for owner, m := range l.relays {
		if owner != except && !m.expires.After(now) {
			delete(l.relays, owner)
		}
	}
}

// share returns the owner's even share. The shards are dealt like cards, so that
// shares differ by one at most and what one relay does not want goes to the
// others; the first to come get the odd ones, so that a newcomer moves no more
// than it must.
func (l *lane) share(owner string, shards int) int {
	members := make([]*member, 0, len(l.relays))
	for _, m := range l.relays {
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.joined, b.joined) })
	most, place := make([]int, len(members)), 0
	for i, m := range members {
		most[i] = m.most
		if m.owner == owner {
			place = i
		}
	}
	return store.Shares(shards, most)[place]
}

// owned returns the shards that the owner has, also expired ones, less those that
// a transaction other than tx keeps.
func (l *lane) owned(owner string, shards int, tx *Tx) (set store.ShardSet) {
	for i := range l.leases[:shards] {
		if lease := &l.leases[i]; lease.owner == owner && (lease.tx == nil || lease.tx == tx) {
			set = set.With(uint8(i)) //nolint:gosec // below 64
		}
	}
	return set
}

// holdsAll reports whether all of failures are under leases that are held.
func (s *Store) holdsAll(failures []store.Failure, tx *Tx) bool {
	l := s.peek(s.route)
	for i := range failures {
		f := failures[i].Lease
		if int(f.Shard) >= s.shards {
			return false
		}
		held := &l.leases[f.Shard]
		if held.owner == "" || held.token != f.Token || held.tx != tx {
			return false
		}
	}
	return true
}

// bump gives leases new tokens, so that their owners read the shards from the start.
func (d *data) bump(route string, shards store.ShardSet) {
	l := d.lane(route)
	for _, shard := range shards.Slice() {
		d.tokens++
		l.leases[shard].token = d.tokens
	}
}
