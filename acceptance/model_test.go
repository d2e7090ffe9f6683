package acceptance

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// subject is a store that is compared with a model.
type subject struct {
	admin  store.Admin
	route  func(name string) relay.Store
	begin  func() (modelTx, error)
	shards int
	manyTx bool          // several transactions can be open, and the others go on meanwhile
	exact  bool          // Stats.Kept is no estimate
	moment time.Duration // longer than a claim takes
	close  func()
}

// modelTx is a transaction in any of the stores.
type modelTx struct {
	insert           func(msgs []outbox.Message) error
	commit, rollback func() error
}

func memorySubject() *subject {
	s := memstore.New(&memstore.Config{Shards: 3})
	return &subject{
		admin: s, shards: 3, manyTx: true, exact: true, moment: 5 * time.Millisecond, close: func() {},
		route: func(name string) relay.Store { return s.Route(name) },
		begin: func() (modelTx, error) {
			tx, err := s.Begin(context.Background())
			return modelTx{
				insert: func(msgs []outbox.Message) error { return s.Insert(context.Background(), tx, msgs) },
				commit: tx.Commit, rollback: tx.Rollback,
			}, err
		},
	}
}

func sqliteSubject(t *testing.T, n int) *subject {
	t.Helper()
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), fmt.Sprint(n, ".db"))))
	must(t, err)
	s := sqlstore.New(db, sqlstore.SQLite, nil)
	must(t, s.Migrate(t.Context()))
	return &subject{
		admin: s, shards: 1, exact: true, moment: 50 * time.Millisecond, close: func() { _ = db.Close() },
		route: func(name string) relay.Store { return s.Route(name) },
		begin: func() (modelTx, error) {
			tx, err := db.BeginTx(context.Background(), nil)
			return modelTx{
				insert: func(msgs []outbox.Message) error { return s.Insert(context.Background(), tx, msgs) },
				commit: tx.Commit, rollback: tx.Rollback,
			}, err
		},
	}
}

func postgresSubject(t *testing.T, url string, n int) *subject {
	t.Helper()
	pool := openPool(t, url, 8)
	s := pgxstore.New(pool, &pgxstore.Config{Schema: fmt.Sprint("model_", n), Logger: quiet()})
	must(t, s.Migrate(t.Context()))
	return &subject{
		admin: s, shards: 64, manyTx: true, moment: 50 * time.Millisecond,
		close: func() {
			_ = s.Close()
			pool.Close()
		},
		route: func(name string) relay.Store { return s.Route(name) },
		begin: func() (modelTx, error) {
			ctx := context.Background()
			tx, err := pool.BeginTx(ctx, pgx.TxOptions{})
			return modelTx{
				insert:   func(msgs []outbox.Message) error { return s.Insert(ctx, tx, msgs) },
				commit:   func() error { return tx.Commit(ctx) },
				rollback: func() error { return tx.Rollback(ctx) },
			}, err
		},
	}
}

// checks runs a property so many times, always the same unless a seed is given: what
// has passed passes. In the long run it is ten times as often and by chance. The tests
// that use it are not parallel to one another: rapid has one setting for all.
func checks(t *testing.T, n, steps int, property func(*rapid.T)) {
	t.Helper()
	long := os.Getenv("OUTBOX_SOAK") != ""
	if long {
		n *= 10
	}
	set := func(name, value string) {
		before := flag.Lookup(name).Value.String()
		must(t, flag.Set(name, value))
		t.Cleanup(func() { must(t, flag.Set(name, before)) })
	}
	if flag.Lookup("rapid.failfile").Value.String() == "" && os.Getenv("RAPID_CHECKS") == "" {
		set("rapid.checks", strconv.Itoa(n))
		set("rapid.steps", strconv.Itoa(steps))
	}
	if !long && flag.Lookup("rapid.seed").Value.String() == "0" {
		set("rapid.seed", "1")
	}
	set("rapid.nofailfile", "true")
	rapid.Check(t, property)
}

// TestStoreFollowsTheModel does things to a store at random and compares it, after
// each of them, with a model of a few lists.
func TestStoreFollowsTheModel(t *testing.T) {
	t.Run("Memory", func(t *testing.T) {
		checks(t, 200, 60, func(t *rapid.T) { followModel(t, memorySubject()) })
	})
	t.Run("SQLite", func(t *testing.T) {
		n := 0
		checks(t, 20, 40, func(rt *rapid.T) {
			n++
			followModel(rt, sqliteSubject(t, n))
		})
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		url, n := testenv.Postgres(t).NewDatabase(t), 0
		checks(t, 5, 40, func(rt *rapid.T) {
			n++
			followModel(rt, postgresSubject(t, url, n))
		})
	})
}

func followModel(t *rapid.T, s *subject) {
	defer s.close()
	m := newModel(s)
	defer m.rollbackAll()
	t.Repeat(map[string]func(*rapid.T){
		"":              m.compare,
		"emit":          m.emit,
		"emit again":    m.emit,
		"leave open":    m.leaveOpen,
		"end":           m.endOne,
		"read":          m.read,
		"read again":    m.read,
		"read anew":     m.readAnew,
		"read all":      m.readAll,
		"settle":        m.settle,
		"claim":         m.claim,
		"leave":         m.leave,
		"fail":          m.fail,
		"fail again":    m.fail,
		"redrive":       m.redrive,
		"discard":       m.discard,
		"retry":         m.retry,
		"promote":       m.promote,
		"dispatch":      m.dispatch,
		"withdraw":      m.withdraw,
		"purge history": m.purge,
		"void claim":    m.expire,
	})
}
