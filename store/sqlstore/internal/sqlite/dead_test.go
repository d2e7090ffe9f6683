package sqlite

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// buried returns a store with dead letters of one key, all but the first parked, and
// its lease.
func buried(t *testing.T, n int) (*Store, store.Lease) {
	t.Helper()
	s := newStore(t)
	claim, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "relay", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var failures []store.Failure
	for i := range n {
		id := fmt.Sprintf("00000000-0000-0000-0000-%012d", i)
		insert(t, s, outbox.Message{ID: id, Topic: "a", Key: "k"})
		failures = append(failures, store.Failure{
			Ref: store.Ref{Position: int64(i + 1), ID: id}, Lease: claim.Leases[0], Dead: store.Exhausted, Park: i > 0,
		})
	}
	if err := s.Fail(t.Context(), failures); err != nil {
		t.Fatal(err)
	}
	return s, claim.Leases[0]
}

func leaseNow(t *testing.T, s *Store) store.Lease {
	t.Helper()
	claim, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "relay", TTL: time.Hour})
	if err != nil || len(claim.Leases) != 1 {
		t.Fatalf("claim: %+v, %v", claim, err)
	}
	return claim.Leases[0]
}

// TestRedriveTakesAllOfAParkedKey: also what died before it was parked.
func TestRedriveTakesAllOfAParkedKey(t *testing.T) {
	t.Parallel()
	for _, place := range []int64{1, 3} {
		s, _ := buried(t, 3)
		if n, err := s.Redrive(t.Context(), []int64{place}); n != 3 || err != nil {
			t.Errorf("by place %d: %d, %v, want 3", place, n, err)
		}
	}
}

// TestDiscardLeavesTheRelayAlone: it has nothing to do again while the key is still
// parked.
func TestDiscardLeavesTheRelayAlone(t *testing.T) {
	t.Parallel()
	s, lease := buried(t, 3)
	for _, c := range []struct {
		place int64
		same  bool
	}{{1, true}, {3, true}, {2, false}} {
		if n, err := s.Discard(t.Context(), []int64{c.place}); n != 1 || err != nil {
			t.Fatalf("discarded %d, %v, want 1", n, err)
		}
		if now := leaseNow(t, s); (now == lease) != c.same {
			t.Errorf("after place %d the lease is %+v, was %+v, want the same: %t", c.place, now, lease, c.same)
		}
	}
}

// TestListOfWhatIsNotPending has no times that run, and a relay has the shards of its
// route alone.
func TestListOfWhatIsNotPending(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	later := time.Now().Add(time.Hour)
	insert(t, s, outbox.Message{ID: someID, Topic: "a", DeliverAt: later, ExpiresAt: later.Add(time.Hour)})
	list, err := s.List(t.Context(), store.Query{State: store.Scheduled, Limit: 10})
	if err != nil || len(list) != 1 || list[0].ExpiresIn != 0 || list[0].ExpiresAt.IsZero() {
		t.Errorf("scheduled are %+v, %v, want one that does not expire yet", list, err)
	}
	leaseNow(t, s)
	leaseNow(t, s.Route("x"))
	stats, err := s.Stats(t.Context())
	if err != nil || len(stats.Relays) != 1 || stats.Relays[0].Route != "x" || stats.Relays[0].Shards != 1 {
		t.Errorf("relays are %+v, %v, want one with the shard of its route", stats.Relays, err)
	}
}

// TestTransactionIsNoRelay: the others make no room for it, nor see it.
func TestTransactionIsNoRelay(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	err := s.InTx(t.Context(), func(tx *sql.Tx) error {
		claim, err := s.Within(tx).Claim(t.Context(), store.ClaimRequest{Owner: "tx", TTL: time.Hour})
		if len(claim.Leases) != 1 || claim.Relays != 0 {
			t.Errorf("the claim is %+v, want the lease and no relay", claim)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if stats, err := s.Stats(t.Context()); err != nil || len(stats.Relays) != 0 {
		t.Errorf("relays are %+v, %v, want none", stats.Relays, err)
	}
}
