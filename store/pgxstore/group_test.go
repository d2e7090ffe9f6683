package pgxstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/store/pgxstore"
)

var errOnPurpose = errors.New("on purpose")

// groupBench is a group with a table for effects: which transaction wrote them, and
// a reference that is looked at only by the commit.
type groupBench struct {
	t     *testing.T
	group *pgxstore.Group
	count func(query string) int
	table string
}

func newGroupBench(t *testing.T, most int) *groupBench {
	s, pool, schema := openStore(t, nil)
	table := pgx.Identifier{schema, "effect"}.Sanitize()
	exec(t, pool, `CREATE TABLE `+table+` (
		id text NOT NULL, of text NOT NULL, tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
		UNIQUE (of) DEFERRABLE INITIALLY DEFERRED)`)
	exec(t, pool, `INSERT INTO `+table+` VALUES ('taken', 'taken')`)
	return &groupBench{t: t, group: s.Group(most), table: table, count: func(query string) (n int) {
		must(t, pool.QueryRow(context.Background(), query).Scan(&n))
		return n
	}}
}

func (b *groupBench) write(ctx context.Context, tx pgx.Tx, id, of string) error {
	_, err := tx.Exec(ctx, `INSERT INTO `+b.table+` (id, of) VALUES ($1, $2)`, id, of)
	return err
}

// each handles n messages, of which many are under way at once.
func (b *groupBench) each(n int, handle func(id string)) {
	var all sync.WaitGroup
	ids := make(chan string)
	for range 20 {
		all.Go(func() {
			for id := range ids {
				all.Add(1)
				go func() { // of its own, since some of them end it
					defer all.Done()
					handle(id)
				}()
				time.Sleep(time.Millisecond)
			}
		})
	}
	for i := range n {
		ids <- fmt.Sprint(i)
	}
	close(ids)
	all.Wait()
}

func TestGroupSharesTransactions(t *testing.T) {
	t.Parallel()
	b := newGroupBench(t, 10)
	const n = 300
	b.each(n, func(id string) {
		first, err := b.group.Once(t.Context(), "billing", id, func(ctx context.Context, tx pgx.Tx) error { return b.write(ctx, tx, id, id) })
		if !first || err != nil {
			t.Errorf("once for %s returned %t, %v", id, first, err)
		}
	})
	if have := b.count(`SELECT count(*) FROM ` + b.table + ` WHERE id <> 'taken'`); have != n {
		t.Errorf("%d effects, want %d", have, n)
	}
	transactions := b.count(`SELECT count(DISTINCT tx) FROM ` + b.table)
	most := b.count(`SELECT max(n) FROM (SELECT count(*) AS n FROM ` + b.table + ` GROUP BY tx) AS of_tx`)
	if transactions > n/2 || most > 10 {
		t.Errorf("%d messages in %d transactions of up to %d, want fewer, of up to 10", n, transactions, most)
	}
}

// TestGroupUndoesWhatFailsAlone has messages fail in every way: the others of their
// transaction are not touched, and their own attempt leaves nothing.
func TestGroupUndoesWhatFailsAlone(t *testing.T) {
	t.Parallel()
	b := newGroupBench(t, 10)
	const n = 400
	fails := func(id string) string {
		for suffix, how := range map[string]string{"01": "error", "12": "panic", "23": "goexit", "34": "deferred", "45": "cancel", "56": "swallowed", "67": "terminate"} {
			if strings.HasSuffix(id, suffix) {
				return how
			}
		}
		return ""
	}
	var mu sync.Mutex
	failed := map[string]bool{}
	b.each(n, func(id string) {
		how := fails(id)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		returned := false
		defer func() {
			_ = recover()
			mu.Lock()
			defer mu.Unlock()
			if !returned {
				failed[id] = true
			}
		}()
		_, err := b.group.Once(ctx, "billing", id, func(ctx context.Context, tx pgx.Tx) error {
			if err := b.write(ctx, tx, id, map[bool]string{true: "taken", false: id}[how == "deferred"]); err != nil {
				return err
			}
			switch how {
			case "error":
				return errOnPurpose
			case "panic":
				panic(errOnPurpose)
			case "goexit":
				runtime.Goexit()
			case "cancel":
				cancel()
				_, err := tx.Exec(ctx, `SELECT pg_sleep(1)`)
				return err
			case "swallowed":
				_, _ = tx.Exec(ctx, `SELECT 1/0`)
			case "terminate":
				_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
				return err
			}
			return nil
		})
		returned = true
		if (err != nil) != (how != "") {
			t.Errorf("message %s, which fails by %q, got %v", id, how, err)
		}
		if how == "terminate" && !b.group.Transient(err) {
			t.Errorf("a lost connection does not pass: %v", err)
		}
		if err != nil {
			mu.Lock()
			failed[id] = true
			mu.Unlock()
		}
	})
	for i := range n {
		id := fmt.Sprint(i)
		want := 1
		if fails(id) != "" {
			want = 0
		}
		if failed[id] == (want == 1) {
			t.Errorf("message %s failed: %t", id, failed[id])
		}
		effects := b.count(`SELECT count(*) FROM ` + b.table + ` WHERE id = '` + id + `'`)
		if effects != want {
			t.Errorf("message %s, which fails by %q, has %d effects, want %d", id, fails(id), effects, want)
		}
	}
}

// TestGroupWaitsNoLongerThanItMay: all transactions are taken by messages that do
// not end.
func TestGroupWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	b := newGroupBench(t, 10)
	begun, end := make(chan struct{}), make(chan struct{})
	var slow sync.WaitGroup
	for i := range 4 {
		slow.Go(func() {
			_, err := b.group.Once(t.Context(), "billing", fmt.Sprint("slow", i), func(context.Context, pgx.Tx) error {
				begun <- struct{}{}
				<-end
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.group.Once(ctx, "billing", "late", nothing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("once returned %v, want the end of its context", err)
	}
	close(end)
	slow.Wait()
	if first, err := b.group.Once(t.Context(), "billing", "late", nothing); !first || err != nil {
		t.Errorf("once returned %t, %v; what gave up was not handled", first, err)
	}
}
