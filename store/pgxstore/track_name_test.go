package pgxstore_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-go/outbox/store/track"
)

// TestTablesOfOneNameAreTrackedAtOnce: each by functions of its own, also if there is
// no room in an identifier to tell them apart.
func TestTablesOfOneNameAreTrackedAtOnce(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"users", strings.Repeat("é", 31)} {
		p := newShop(t, "")
		var schemaNames, want []string
		for i := range 6 {
			schema := fmt.Sprintf("same_%d", schemas.Add(1))
			t.Cleanup(func() { _, _ = p.pool.Exec(context.Background(), `DROP SCHEMA `+schema+` CASCADE`) })
			p.exec(fmt.Sprintf(`CREATE SCHEMA %s; CREATE TABLE %[1]s.%s (id int PRIMARY KEY, c%d int)`, schema, name, i))
			schemaNames = append(schemaNames, schema)
			want = append(want, fmt.Sprintf(`%s.insert %d {"id":%[2]d,"c%[2]d":null}`, schema, i))
		}
		each := func(do func(table string) error) {
			var all sync.WaitGroup
			for _, schema := range schemaNames {
				all.Go(func() {
					if err := do(schema + "." + name); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		each(func(table string) error {
			return p.Track(t.Context(), table, &track.Config{Topic: "{schema}.{op}"})
		})
		for i, schema := range schemaNames {
			p.exec(fmt.Sprintf(`INSERT INTO %s.%s VALUES (%d)`, schema, name, i))
		}
		p.want(name, want...)
		each(func(table string) error { return p.Untrack(t.Context(), table) })
	}
}

// TestTrackGoesByTheTableUnderItsLock: not by what the table was when it began to wait.
func TestTrackGoesByTheTableUnderItsLock(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	long := begin(t, p.pool)
	_, err := long.Exec(t.Context(), p.sql(`ALTER TABLE {}.users RENAME COLUMN name TO full_name; ALTER TABLE {}.users DROP COLUMN secret; ALTER TABLE {}.users ADD COLUMN fresh int`))
	must(t, err)
	tracked := make(chan error, 1)
	go func() { tracked <- p.Track(context.Background(), p.sql("{}.users"), nil) }()
	waitFor(t, p.pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted)`, p.sql("{}.users"))
	must(t, long.Commit(t.Context()))
	must(t, <-tracked)
	p.exec(`INSERT INTO {}.users VALUES (1, 'a', 2)`)
	p.want("as it is now", `users.insert 1 {"id":1,"full_name":"a","fresh":2}`)
}

func TestTemporaryTableIsNotTracked(t *testing.T) {
	t.Parallel()
	p := newShop(t, "")
	conn, err := p.pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	var table string
	_, err = conn.Exec(t.Context(), `CREATE TEMPORARY TABLE passing (id int PRIMARY KEY)`)
	must(t, err)
	must(t, conn.QueryRow(t.Context(), `SELECT format('%s.passing', relnamespace::regnamespace) FROM pg_class WHERE oid = 'passing'::regclass`).Scan(&table))
	if err := p.Track(t.Context(), table, nil); err == nil || !strings.Contains(err.Error(), "is a temporary table") {
		t.Errorf("tracking %s: %v", table, err)
	}
	_, err = conn.Exec(t.Context(), `DROP TABLE passing`)
	must(t, err)
}
