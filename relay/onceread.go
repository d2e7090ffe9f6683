package relay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

const (
	oncePage   = 500      // rows read at once
	onceBytes  = 32 << 20 // of the messages of a run
	onceExcept = 64       // keys that are left out of a read, at most
)

// Fetch takes shards and returns the messages that may be sent, in the order of
// positions over all of them. What it comes upon that is never to be sent, it moves to
// the dead letters.
func (r *once) Fetch(ctx context.Context, limit int) ([]*onceItem, error) {
	if err := r.claim(ctx); err != nil {
		return nil, err
	}
	var shards store.ShardSet
	for shard := range r.held {
		shards = shards.With(shard)
	}
	if shards == 0 {
		return nil, nil
	}
	parked, err := r.store.Parked(ctx, shards)
	if err != nil {
		return nil, fmt.Errorf("ask for parked keys: %w", err)
	}
	for _, key := range parked {
		r.parked[key] = true
	}
	if s, ok := r.store.(interface {
		Pauses(ctx context.Context) ([]store.Pause, error)
	}); ok {
		if r.pauses, err = s.Pauses(ctx); err != nil {
			return nil, fmt.Errorf("ask for pauses: %w", err)
		}
	}
	if slices.Contains(r.pauses, store.Pause{}) {
		return nil, nil
	}
	return r.read(ctx, store.ReadRequest{Shards: shards, OnlyTenant: r.config.Tenant, Limit: oncePage, MaxBytes: onceBytes}, limit)
}

// read pages through what is visible until it has enough.
func (r *once) read(ctx context.Context, request store.ReadRequest, limit int) (items []*onceItem, err error) {
	bytes := 0
	for len(items) < limit && bytes < onceBytes {
		if err := r.renew(ctx); err != nil {
			return nil, err
		}
		pages, err := r.store.Read(ctx, request)
		if err != nil {
			return nil, err
		}
		page, now := &pages[0], time.Now()
		var dead []store.Failure
		for i := range page.Rows {
			row := &page.Rows[i]
			switch failure, may := r.sift(row); {
			case failure != nil:
				dead = append(dead, *failure)
			case may && len(items) < limit && bytes < onceBytes:
				items = append(items, newOnceItem(row, now))
				bytes += row.Size()
			}
		}
		if err := r.fail(ctx, dead); err != nil {
			return nil, err
		}
		if !page.More {
			break
		}
		request.Cursor = page.Cursor
		request.Except = r.except(request.Except, page.Rows)
	}
	return items, nil
}

func newOnceItem(row *store.Row, now time.Time) *onceItem {
	it := &onceItem{Row: *row}
	if !row.ExpiresAt.IsZero() {
		it.expires = now.Add(row.ExpiresIn)
	}
	return it
}

// sift tells whether a message may be sent, or is a dead letter. Those of a key that
// waits are neither: nothing overtakes.
func (r *once) sift(row *store.Row) (failure *store.Failure, may bool) {
	lease, held := r.held[row.Shard]
	if !held {
		return nil, false
	}
	key := keyOf(row)
	dead := &store.Failure{Ref: refOf(row), Lease: lease, Attempts: row.Attempts}
	switch {
	case key.Key != "" && r.parked[key]:
		dead.Dead, dead.Park, dead.Error = store.Parked, true, cmp.Or(row.LastError, textParked)
		return dead, false
	case !row.ExpiresAt.IsZero() && row.ExpiresIn <= 0:
		dead.Dead, dead.Error = store.Expired, expiredText(row)
		return dead, false
	case key.Key != "" && r.waiting[key]:
		return nil, false
	case row.RetryIn > 0 || slices.ContainsFunc(r.pauses, func(p store.Pause) bool { return pauses(&p, &row.Message) }):
		r.waiting[key] = true
		return nil, false
	}
	return nil, true
}

// except returns the keys that the next read leaves out: those that wait and of which
// there were rows in the last one.
func (r *once) except(keys []store.Key, rows []store.Row) []store.Key {
	have := make(map[store.Key]bool, len(keys))
	for _, key := range keys {
		have[key] = true
	}
	for i := range rows {
		key := keyOf(&rows[i])
		if len(keys) < onceExcept && key.Key != "" && r.waiting[key] && !have[key] {
			have[key] = true
			keys = append(keys, key)
		}
	}
	return keys
}

// failure says what becomes of a message that was refused or can never be sent.
func (r *once) failure(row *store.Row, cause error) store.Failure {
	f := store.Failure{Attempts: row.Attempts, Error: expiredText(row), Dead: store.Expired}
	if deathReason(cause) != store.Expired { // else it was not tried, and holds up nobody
		f = r.relay.verdict(row, cause)
	}
	f.Ref, f.Lease = refOf(row), r.held[row.Shard]
	return f
}

// pauses tells whether p holds m back.
func pauses(p *store.Pause, m *outbox.Message) bool {
	return (p.Topic == "" || outbox.MatchTopic(p.Topic, m.Topic)) &&
		(p.Key == "" || p.Key == m.Key && p.Tenant == m.Tenant)
}

func keyOf(row *store.Row) store.Key { return store.Key{Tenant: row.Tenant, Key: row.Key} }

func refOf(row *store.Row) store.Ref { return store.Ref{Position: row.Position, ID: row.ID} }
