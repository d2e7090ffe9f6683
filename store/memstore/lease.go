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
}

// member is a relay that is alive until it expires.
type member struct {
	owner   string
	name    string
	most    int
	joined  int64
	expires time.Time
}

// Claim renews the owner's leases and takes free ones up to its share.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	if err := ctx.Err(); err != nil {
		return store.Claim{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.release(r.Owner, r.Release)
	s.noteAlive(&r, now)
	target := s.share(r.Owner)
	claim := store.Claim{Target: target, Relays: len(s.relays)}
	held := s.held(r.Owner)
	for shard := range s.leases[:s.shards] {
		l := &s.leases[shard]
		switch {
		case l.owner == r.Owner:
			l.expires = now.Add(r.TTL)
		case held < target && (l.owner == "" || !l.expires.After(now)):
			s.tokens++
			*l = lease{owner: r.Owner, token: s.tokens, expires: now.Add(r.TTL)}
			held++
		default:
			continue
		}
		claim.Leases = append(claim.Leases, store.Lease{Shard: uint8(shard), Token: l.token}) //nolint:gosec // below 64
	}
	return claim, nil
}

// Leave gives back the owner's leases and forgets it.
func (s *Store) Leave(ctx context.Context, owner string, _ map[uint8]int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(owner, store.FirstShards(s.shards))
	delete(s.relays, owner)
	return nil
}

func (s *Store) release(owner string, shards store.ShardSet) {
	for shard := range s.leases[:s.shards] {
		if l := &s.leases[shard]; l.owner == owner && shards.Has(uint8(shard)) { //nolint:gosec // below 64
			l.owner = ""
		}
	}
}

// noteAlive enters the relay that claims and drops those that are dead.
func (s *Store) noteAlive(r *store.ClaimRequest, now time.Time) {
	m := s.relays[r.Owner]
	if m == nil {
		s.joined++
		m = &member{owner: r.Owner, joined: s.joined}
		s.relays[r.Owner] = m
	}
	m.name, m.most, m.expires = r.Name, r.Most, now.Add(r.TTL)
	for owner, other := range s.relays {
		if other != m && !other.expires.After(now) {
			delete(s.relays, owner)
		}
	}
}

// share returns the owner's even share. The shards are dealt like cards, so that
// shares differ by one at most and what one relay does not want goes to the
// others; the first to come get the odd ones, so that a newcomer moves no more
// than it must.
func (s *Store) share(owner string) int {
	members := make([]*member, 0, len(s.relays))
	for _, m := range s.relays {
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
	return store.Shares(s.shards, most)[place]
}

func (s *Store) held(owner string) int {
	n := 0
	for shard := range s.leases[:s.shards] {
		if s.leases[shard].owner == owner {
			n++
		}
	}
	return n
}

// holds reports whether l is still somebody's lease under its token.
func (s *Store) holds(l store.Lease) bool {
	if int(l.Shard) >= s.shards {
		return false
	}
	held := &s.leases[l.Shard]
	return held.owner != "" && held.token == l.Token
}
