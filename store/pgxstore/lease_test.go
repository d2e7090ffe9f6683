package pgxstore_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func claim(t *testing.T, s *pgxstore.Store, owner string) store.Claim {
	t.Helper()
	c, err := s.Claim(t.Context(), store.ClaimRequest{Owner: owner, TTL: time.Hour})
	must(t, err)
	return c
}

// lockLease locks a lease in a transaction of its own.
func lockLease(t *testing.T, pool *pgxpool.Pool, schema, strength string) pgx.Tx {
	t.Helper()
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT FROM `+pgx.Identifier{schema, "lease"}.Sanitize()+` WHERE shard = 7 FOR `+strength)
	must(t, err)
	return tx
}

func TestClaimRenewsLeasesThatAFailureHolds(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	claim(t, s, "o")
	lockLease(t, pool, schema, "KEY SHARE")
	if c := claim(t, s, "o"); len(c.Leases) != 64 {
		t.Fatalf("%d leases, want all", len(c.Leases))
	}
}

// TestClaimDoesNotWaitForALongRedrive: one shard that is being changed must not cost a
// relay the others.
func TestClaimDoesNotWaitForALongRedrive(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	before := claim(t, s, "o")
	redrive := lockLease(t, pool, schema, "UPDATE")
	c := claim(t, s, "o")
	if len(c.Leases) != 63 || c.Leases[7].Shard != 8 {
		t.Fatalf("%d leases, want all but that of shard 7", len(c.Leases))
	}
	if err := s.Fail(t.Context(), []store.Failure{{Ref: store.Ref{Position: 1, ID: "0193a7f0-0000-7000-8000-000000000000"}, Lease: before.Leases[7]}}); !errors.Is(err, store.ErrLeaseLost) {
		t.Fatalf("fail returned %v, want ErrLeaseLost", err)
	}
	must(t, redrive.Commit(t.Context()))
	if c := claim(t, s, "o"); len(c.Leases) != 64 {
		t.Fatalf("%d leases, want all", len(c.Leases))
	}
}

// TestWhatALeaseIsToldIsWrittenOrRefused: while somebody else has locked a lease, nobody
// is left to believe that its doubt was noted or that it was given back.
func TestWhatALeaseIsToldIsWrittenOrRefused(t *testing.T) {
	t.Parallel()
	only := store.ShardSet(0).With(7)
	cases := map[string]func(s *pgxstore.Store) error{
		"doubt": func(s *pgxstore.Store) error {
			_, err := s.Claim(context.Background(), store.ClaimRequest{Owner: "o", TTL: time.Hour, Doubt: map[uint8]int64{7: 100}})
			return err
		},
		"release": func(s *pgxstore.Store) error {
			_, err := s.Claim(context.Background(), store.ClaimRequest{Owner: "o", TTL: time.Hour, Release: only, Most: 63})
			return err
		},
		"leave": func(s *pgxstore.Store) error { return s.Leave(context.Background(), "o", map[uint8]int64{7: 100}) },
	}
	for name, tell := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, schema := openStore(t, nil)
			claim(t, s, "o")
			lease := pgx.Identifier{schema, "lease"}.Sanitize()
			exec(t, pool, `UPDATE `+lease+` SET expires_at = now() + interval '1 minute'`)
			other := lockLease(t, pool, schema, "UPDATE")
			if err := tell(s); err == nil || !strings.Contains(err.Error(), "leases of shards [7] are locked") {
				t.Fatalf("it returned %v, want that the lease is locked", err)
			}
			var untouched int
			must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM `+lease+` WHERE expires_at BETWEEN now() AND now() + interval '1 minute'`).Scan(&untouched))
			if untouched != 1 {
				t.Fatalf("%d leases were left alone, want that of shard 7", untouched)
			}
			must(t, other.Rollback(t.Context()))
			must(t, tell(s))
			var owned bool
			var doubt int64
			must(t, pool.QueryRow(t.Context(), `SELECT owner IS NOT NULL, doubt FROM `+lease+` WHERE shard = 7`).Scan(&owned, &doubt))
			if owned != (name == "doubt") || doubt != 100 && name != "release" {
				t.Fatalf("the lease is owned: %v, and its doubt %d", owned, doubt)
			}
		})
	}
}

// TestClaimWaitsAMomentForALease: asking for a shard must not lose it.
func TestClaimWaitsAMomentForALease(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	claim(t, s, "o")
	for try := 1; ; try++ {
		asked := lockLease(t, pool, schema, "NO KEY UPDATE")
		claimed := make(chan store.Claim, 1)
		go func() {
			c, _ := s.Claim(context.Background(), store.ClaimRequest{Owner: "o", TTL: time.Hour})
			claimed <- c
		}()
		var c store.Claim
		for waiting, done := false, false; !waiting && !done; {
			must(t, pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))`,
				int32(asked.Conn().PgConn().PID())).Scan(&waiting)) //nolint:gosec // the server's pids are int4
			select {
			case c = <-claimed:
				done = true
				claimed <- c
			default:
			}
		}
		must(t, asked.Commit(t.Context()))
		if c = <-claimed; len(c.Leases) == 64 {
			return
		}
		if try == 20 {
			t.Fatalf("%d leases in the end, want all", len(c.Leases))
		}
	}
}

func TestRoutesOfANewNameAreClaimedTogether(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	first, second := begin(t, pool), begin(t, pool)
	in := func(tx pgx.Tx) int {
		t.Helper()
		c, err := s.Route("new").Within(tx).Claim(t.Context(), store.ClaimRequest{Owner: "once", TTL: time.Hour})
		must(t, err)
		return len(c.Leases)
	}
	if a, b := in(first), in(second); a != 64 || b != 0 {
		t.Fatalf("%d and %d leases, want all and none", a, b)
	}
	must(t, first.Rollback(t.Context()))
	if n := in(second); n != 64 {
		t.Fatalf("%d leases, want all", n)
	}
	must(t, second.Rollback(t.Context()))
	if c, err := s.Route("new").Claim(t.Context(), store.ClaimRequest{Owner: "o", TTL: time.Hour}); err != nil || len(c.Leases) != 64 {
		t.Fatalf("%d leases, %v, want all", len(c.Leases), err)
	}
}

func TestWithdrawDoesNotWaitForATransaction(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	emit(t, s, "a")
	list, err := s.List(t.Context(), store.Query{State: store.Pending, Limit: 1})
	must(t, err)
	tx := begin(t, pool)
	_, err = s.Within(tx).Claim(t.Context(), store.ClaimRequest{Owner: "once", TTL: time.Hour})
	must(t, err)
	withdraw(t, s, list[0].ID, store.Asked)
	must(t, s.LetGo(t.Context(), "me"))
	must(t, tx.Rollback(t.Context()))
	withdraw(t, s, list[0].ID, store.Withdrawn)
}

// TestWithdrawDoesNotWaitForWhatIsSettled in a transaction, of a copy on another route:
// relays wait for the leases that it has locked itself.
func TestWithdrawDoesNotWaitForWhatIsSettled(t *testing.T) {
	t.Parallel()
	for name, holds := range map[string]bool{"under a lease": true, "after the lease was lost": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, pool, _ := openStore(t, nil)
			emitTo(t, s, "", "b")
			tx := begin(t, pool)
			v := s.Within(tx)
			if holds {
				_, err := v.Claim(t.Context(), store.ClaimRequest{Owner: "once", TTL: time.Hour})
				must(t, err)
			}
			pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 1})
			must(t, err)
			row := pages[0].Rows[0]
			must(t, v.Settle(t.Context(), []store.Ref{{Position: row.Position, ID: row.ID}}, true))
			withdrawBeside(t, s, pool, tx, row.ID, store.Asked)
			must(t, tx.Rollback(t.Context()))
			withdraw(t, s, row.ID, store.Withdrawn)
		})
	}
}

// TestWithdrawDoesNotWaitForTheFirstClaim of a route, in a transaction.
func TestWithdrawDoesNotWaitForTheFirstClaim(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	emitTo(t, s, "new")
	list, err := s.List(t.Context(), store.Query{State: store.Pending, Limit: 1})
	must(t, err)
	tx := begin(t, pool)
	_, err = s.Route("new").Within(tx).Claim(t.Context(), store.ClaimRequest{Owner: "once", TTL: time.Hour})
	must(t, err)
	withdrawBeside(t, s, pool, tx, list[0].ID, store.Asked)
	must(t, tx.Rollback(t.Context()))
	withdraw(t, s, list[0].ID, store.Withdrawn)
}

// emitTo emits a message with a copy for each route.
func emitTo(t *testing.T, s *pgxstore.Store, routes ...string) {
	t.Helper()
	ob := outbox.New(s, outbox.WithRoutes(func(*outbox.Message) []string { return routes }))
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error { return ob.Emit(t.Context(), tx, outbox.Event{Topic: "t", Key: "k"}) }))
}

// withdrawBeside checks that the answer does not wait for tx.
func withdrawBeside(t *testing.T, s *pgxstore.Store, pool *pgxpool.Pool, tx pgx.Tx, id string, want store.Withdrawal) {
	t.Helper()
	var got store.Withdrawal
	done := make(chan error, 1)
	go func() {
		var err error
		got, err = s.Withdraw(context.Background(), id, "me")
		done <- err
	}()
	waitBehind(t, pool, tx, 1, done)
	if len(done) == 0 {
		t.Fatal("withdraw waits for the transaction")
	}
	must(t, <-done)
	if got != want {
		t.Fatalf("withdraw answers %q, want %q", got, want)
	}
}

func withdraw(t *testing.T, s *pgxstore.Store, id string, want store.Withdrawal) {
	t.Helper()
	got, err := s.Withdraw(t.Context(), id, "me")
	must(t, err)
	if got != want {
		t.Fatalf("withdraw answers %q, want %q", got, want)
	}
}

// TestWithdrawAfterARelayDied: what a relay has sent that left nothing behind but an
// expired lease, nobody knows.
func TestWithdrawAfterARelayDied(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	emit(t, s, "before")
	claim(t, s, "o")
	exec(t, pool, `UPDATE `+pgx.Identifier{schema, "lease"}.Sanitize()+` SET expires_at = now() - interval '1 second'`)
	list, err := s.List(t.Context(), store.Query{State: store.Pending, Limit: 1})
	must(t, err)
	withdraw(t, s, list[0].ID, store.TooLate)
	must(t, s.LetGo(t.Context(), "me"))
	// The dead relay's lease is free now, and what comes after it was never sent.
	emit(t, s, "after")
	if list, err = s.List(t.Context(), store.Query{State: store.Pending, After: list[0].Place, Limit: 1}); err != nil || len(list) != 1 {
		t.Fatalf("%d messages, %v, want 1", len(list), err)
	}
	exec(t, pool, `UPDATE `+pgx.Identifier{schema, "lease"}.Sanitize()+` SET owner = NULL`)
	withdraw(t, s, list[0].ID, store.Withdrawn)
}

// TestWithinLeavesSettingsAlone: the caller's statements are planned as before.
func TestWithinLeavesSettingsAlone(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SET LOCAL enable_sort = off`)
	must(t, err)
	v := s.Within(tx)
	c, err := v.Claim(t.Context(), store.ClaimRequest{Owner: "once", TTL: time.Hour})
	must(t, err)
	_, err = v.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
	must(t, err)
	ref := store.Ref{Position: 1, ID: "0193a7f0-0000-7000-8000-000000000000"}
	must(t, v.Settle(t.Context(), []store.Ref{ref}, true))
	must(t, v.Fail(t.Context(), []store.Failure{{Ref: ref, Lease: c.Leases[0]}}))
	_, err = v.Parked(t.Context(), store.FirstShards(64))
	must(t, err)
	must(t, v.Leave(t.Context(), "once", nil))
	for setting, want := range map[string]string{"enable_seqscan": "on", "enable_bitmapscan": "on", "enable_sort": "off", "lock_timeout": "0"} {
		var got string
		must(t, tx.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&got))
		if got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
}

// TestWithinDoesNotReadWhatIsNotCommitted: what the transaction itself has emitted is
// neither sent by it nor hidden from those who read after its commit.
func TestWithinDoesNotReadWhatIsNotCommitted(t *testing.T) {
	t.Parallel()
	// On a server of its own, where no other transaction is later than this one.
	pool := openPool(t, testenv.StartPostgres(t, nil).URL())
	s := newStore(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	emit(t, s, "committed")
	f := follow(t, s)
	tx := begin(t, pool)
	must(t, outbox.New(s).Emit(t.Context(), tx, outbox.Event{Topic: "own"}))
	read := func(want int) {
		t.Helper()
		pages, err := s.Within(tx).Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
		must(t, err)
		if rows := pages[0].Rows; len(rows) != want || rows[0].Topic != "committed" {
			t.Fatalf("read %d messages, want the %d that are committed", len(rows), want)
		}
	}
	read(1)
	emit(t, s, "later")
	read(2)
	must(t, tx.Commit(t.Context()))
	f.read()
	f.want("committed", "own", "later")
}

// TestRedriveGivesNewPositions where positions were given again after a restore, and
// keeps the order of the key.
func TestRedriveGivesNewPositions(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error {
		return outbox.New(s).Emit(t.Context(), tx, outbox.Event{Topic: "x", Key: "x"}, outbox.Event{Topic: "k1", Key: "k"},
			outbox.Event{Topic: "k2", Key: "k"}, outbox.Event{Topic: "k3", Key: "k"}, outbox.Event{Topic: "y", Key: "y"})
	}))
	c := claim(t, s, "o")
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
	must(t, err)
	var failures []store.Failure
	for _, row := range pages[0].Rows {
		failures = append(failures, store.Failure{
			Ref: store.Ref{Position: row.Position, ID: row.ID}, Lease: c.Leases[row.Shard], Dead: store.Exhausted, Park: true,
		})
	}
	must(t, s.Fail(t.Context(), failures))
	taken := pages[0].Rows[2].Position // k2's
	exec(t, pool, `INSERT INTO `+pgx.Identifier{schema, "message"}.Sanitize()+` (position, topic, payload) VALUES ($1, 'other', '1')`, taken)
	dead, err := s.List(t.Context(), store.Query{State: store.Dead, Limit: 10})
	must(t, err)
	places := make([]int64, 0, len(dead))
	for _, m := range dead {
		places = append(places, m.Place)
	}
	if n, err := s.Redrive(t.Context(), places); err != nil || n != 5 {
		t.Fatalf("redriven %d, %v, want 5", n, err)
	}
	f := follow(t, s)
	want := []string{"x", "k1", "other", "y", "k2", "k3"}
	f.want(want...)
	for i := range want {
		if f.order[i] != want[i] {
			t.Fatalf("the order is %v, want %v", f.order, want)
		}
	}
}
