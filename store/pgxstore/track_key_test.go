package pgxstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/track"
)

// TestTrackedKeyThatIsTooLongIsShortened: equal ones to the same, so that messages keep
// their order, and to one that can be a dead letter's.
func TestTrackedKeyThatIsTooLongIsShortened(t *testing.T) {
	t.Parallel()
	p := newShop(t, `CREATE TABLE {}.long (id int PRIMARY KEY, k text)`)
	p.track("{}.long", &track.Config{Key: []string{"k"}})
	p.exec(`INSERT INTO {}.long VALUES (1, repeat('x', 512)), (2, repeat('ü', 9000) || 'a'), (3, repeat('ü', 9000) || 'b'), (4, repeat('ü', 9000) || 'a')`)
	lease := claim(t, p.Store, "o").Leases
	pages, err := p.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
	must(t, err)
	var keys []string
	var failures []store.Failure
	for _, row := range pages[0].Rows {
		keys = append(keys, row.Key)
		failures = append(failures, store.Failure{Ref: store.Ref{Position: row.Position, ID: row.ID}, Lease: lease[row.Shard], Dead: store.Invalid, Error: "refused"})
	}
	if keys[0] != strings.Repeat("x", 512) || keys[1] == keys[2] || keys[1] != keys[3] || !strings.HasPrefix(keys[1], strings.Repeat("ü", 100)+":") || len(keys[1]) != 265 {
		t.Errorf("the keys are %q", keys)
	}
	must(t, p.Fail(t.Context(), failures))
}

// TestTrackingDoesNotDependOnTheSearchPath: who tracks, who checks and who writes can
// have others.
func TestTrackingDoesNotDependOnTheSearchPath(t *testing.T) {
	t.Parallel()
	p := newShop(t, `CREATE TYPE {}.mood AS ENUM ('good'); CREATE DOMAIN {}."D" AS numeric(9,2);
		CREATE TABLE {}.people (id int PRIMARY KEY, m {}.mood, ms {}.mood[], d {}."D", v varchar(9)[], at timestamptz(3))`)
	p.track("{}.people", nil)
	p.wantChanges()
	c := p.pool.Config()
	c.ConnConfig.RuntimeParams["search_path"] = p.sql("{}")
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	must(t, err)
	t.Cleanup(pool.Close)
	other := &shop{newStore(t, pool, &pgxstore.Config{Schema: p.outbox}), t, pool, p.outbox, p.schema}
	other.wantChanges()
	if _, err := other.Tracked(t.Context(), "people"); err != nil {
		t.Error(err)
	}
	other.track("people", nil)
	p.wantChanges()
	p.exec(`INSERT INTO {}.people VALUES (1, 'good')`)
	p.want("tracked again", `people.insert 1 {"id":1,"m":"good","ms":null,"d":null,"v":null,"at":null}`)
	p.exec(`ALTER TYPE {}.mood RENAME TO humour`)
	p.wantChanges(fmt.Sprintf(`column m was of type "%s".mood and is of type "%[1]s".humour now`, p.schema), "humour[] now")
}
