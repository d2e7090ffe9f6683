package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// TxStore drains a route inside a transaction: see [Store.Within].
type TxStore struct {
	store *Store
	tx    *Tx
}

// Within returns a view of the store to drain its route inside tx: what it claims,
// settles and fails is seen by others when tx commits, and is undone when tx rolls
// back. Until then nobody else gets the shards that it has claimed.
func (s *Store) Within(tx *Tx) *TxStore { return &TxStore{store: s, tx: tx} }

// drain is what a transaction did by a [TxStore].
type drain struct {
	leases  map[*lease]lease // as they were
	rows    map[int64]*row   // as they are to be, by position
	parked  []parkedKey
	changes []func(d *data)
}

type parkedKey struct {
	route string
	shard uint8
	key   store.Key
}

// lock keeps all others from a lease until tx ends. A nil tx locks nothing.
func (tx *Tx) lock(l *lease) {
	if tx == nil || l.tx == tx {
		return
	}
	tx.draining().leases[l] = *l
	l.tx = tx
}

func (tx *Tx) draining() *drain {
	if tx.drain == nil {
		tx.drain = &drain{leases: make(map[*lease]lease), rows: make(map[int64]*row)}
	}
	return tx.drain
}

// sees returns a row as it is for tx.
func (tx *Tx) sees(r *row) *row {
	if tx.drain == nil || r.removed {
		return r
	}
	if own := tx.drain.rows[r.position]; own != nil {
		return own
	}
	return r
}

// change returns the row that a ref names, to be changed for tx alone; nil if there
// is none.
func (tx *Tx) change(ref store.Ref) *row {
	r := tx.store.find(ref)
	if r == nil {
		return nil
	}
	if r = tx.sees(r); r.removed {
		return nil
	}
	own := *r
	tx.draining().rows[r.position] = &own
	return &own
}

// commit does what the transaction has kept to itself.
func (n *drain) commit(d *data) {
	for _, change := range n.changes {
		change(d)
	}
	for l := range n.leases {
		l.tx = nil
	}
}

// rollback restores the leases, less what others did to them meanwhile.
func (n *drain) rollback() {
	for l, was := range n.leases {
		was.tx = nil
		was.wantedBy, was.wanted = l.wantedBy, l.wanted
		*l = was
	}
}

// Shards returns the number of shards.
func (v *TxStore) Shards() int { return v.store.shards }

// Claim is [Store.Claim] in the transaction.
func (v *TxStore) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return store.Claim{}, err
	}
	r.Guest = true // a transaction is no relay that others make room for
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	return v.store.claim(&r, v.tx, time.Now()), nil
}

// Leave gives back what was claimed. Others get it when the transaction has ended.
func (v *TxStore) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return err
	}
	s := v.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(s.lane(s.route), owner, store.FirstShards(s.shards), doubt, v.tx)
	return nil
}

// Read is [Store.Read] in the transaction.
func (v *TxStore) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return nil, err
	}
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	return v.store.read(v.tx, requests)
}

// Settle is [Store.Settle] in the transaction.
func (v *TxStore) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return err
	}
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	for _, ref := range refs {
		if r := v.tx.change(ref); r != nil {
			r.removed = true
		}
	}
	refs, now := slices.Clone(refs), time.Now()
	n := v.tx.draining()
	n.changes = append(n.changes, func(d *data) { d.settle(refs, keep, now) })
	return nil
}

// Fail is [Store.Fail] in the transaction.
func (v *TxStore) Fail(ctx context.Context, failures []store.Failure) error {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return err
	}
	s, n, now := v.store, v.tx.draining(), time.Now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.holdsAll(failures, v.tx) {
		return store.ErrLeaseLost
	}
	for _, f := range failures {
		r := v.tx.change(f.Ref)
		if r == nil {
			continue
		}
		r.refuse(&f, now)
		r.removed = f.Dead != ""
		if f.Dead != "" && f.Park {
			n.parked = append(n.parked, parkedKey{s.route, r.shard, r.key()})
		}
		n.changes = append(n.changes, func(d *data) { d.fail(s.route, &f, now) })
	}
	return nil
}

// Parked is [Store.Parked] in the transaction.
func (v *TxStore) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	if err := v.store.usable(ctx, v.tx); err != nil {
		return nil, err
	}
	v.store.mu.RLock()
	defer v.store.mu.RUnlock()
	keys := v.store.parked(shards)
	if v.tx.drain == nil {
		return keys, nil
	}
	for _, p := range v.tx.drain.parked {
		if p.route == v.store.route && shards.Has(p.shard) && !slices.Contains(keys, p.key) {
			keys = append(keys, p.key)
		}
	}
	return keys, nil
}
