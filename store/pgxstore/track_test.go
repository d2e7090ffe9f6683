package pgxstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/track"
)

// shop is a schema of the test's own with an outbox beside it.
type shop struct {
	*pgxstore.Store
	t      *testing.T
	pool   *pgxpool.Pool
	outbox string
	schema string
}

// newShop runs ddl, in which {} stands for the schema's name.
func newShop(t *testing.T, ddl string) *shop {
	t.Helper()
	s, pool, outbox := openStore(t, nil)
	p := &shop{s, t, pool, outbox, fmt.Sprintf("Sh%%op '%d\\", schemas.Add(1))}
	t.Cleanup(func() {
		_, _ = pool.Exec(context.Background(), p.sql("DROP SCHEMA IF EXISTS {} CASCADE"))
	})
	p.exec("CREATE SCHEMA {}; " + ddl)
	return p
}

func (p *shop) sql(text string) string {
	return strings.NewReplacer("{}", pgx.Identifier{p.schema}.Sanitize(), "{outbox}", pgx.Identifier{p.outbox}.Sanitize()).Replace(text)
}

func (p *shop) try(text string) error {
	_, err := p.pool.Exec(p.t.Context(), p.sql(text), pgx.QueryExecModeSimpleProtocol)
	return err
}

func (p *shop) exec(text string) {
	p.t.Helper()
	if err := p.try(text); err != nil {
		p.t.Fatalf("%s: %v", text, err)
	}
}

// track has a table published.
func (p *shop) track(table string, c *track.Config) {
	p.t.Helper()
	must(p.t, p.Track(p.t.Context(), p.sql(table), c))
}

// published removes and returns what is in the outbox: topic, key and payload.
func (p *shop) published() (lines []string) {
	p.t.Helper()
	pages, err := p.Read(p.t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 100_000, MaxBytes: 1 << 30})
	must(p.t, err)
	var refs []store.Ref
	for _, row := range pages[0].Rows {
		lines = append(lines, row.Topic+" "+row.Key+" "+string(row.Payload))
		refs = append(refs, store.Ref{Position: row.Position, ID: row.ID})
	}
	must(p.t, p.Settle(p.t.Context(), refs, false))
	return lines
}

func (p *shop) want(what string, lines ...string) {
	p.t.Helper()
	if got := p.published(); !slices.Equal(got, lines) {
		p.t.Errorf("%s: published\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

// changes returns what has changed about the only tracked table.
func (p *shop) changes() []string {
	p.t.Helper()
	tables, err := p.Tracked(p.t.Context())
	must(p.t, err)
	if len(tables) != 1 {
		p.t.Fatalf("tracked are %+v, want one", tables)
	}
	return tables[0].Changes
}

func (p *shop) wantChanges(words ...string) {
	p.t.Helper()
	got := p.changes()
	for i, word := range words {
		if len(got) != len(words) || !strings.Contains(got[i], word) {
			p.t.Fatalf("changed has %q, want %q", got, words)
		}
	}
	if len(got) != len(words) {
		p.t.Fatalf("changed has %q, want %q", got, words)
	}
}

const usersDDL = `CREATE TABLE {}.users (id bigint PRIMARY KEY, name text, secret text)`

var named = &track.Config{Fields: []string{"id", "name"}}

func TestTrackedTablePublishesEachRowOfAnyStatement(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.exec(`INSERT INTO {}.users VALUES (0, 'before', 's')`)
	p.track("{}.users", named)
	p.exec(`INSERT INTO {}.users VALUES (1, 'a', 's'), (9007199254740993, 'b', 's')`)
	p.want("insert", `users.insert 1 {"id":1,"name":"a"}`, `users.insert 9007199254740993 {"id":9007199254740993,"name":"b"}`)
	p.exec(`UPDATE {}.users SET name = name || 'x' WHERE id <= 1`)
	p.want("update", `users.update 0 {"id":0,"name":"beforex"}`, `users.update 1 {"id":1,"name":"ax"}`)
	p.exec(`UPDATE {}.users SET name = 'x' WHERE id = 77`)
	p.want("an update of nothing")
	p.exec(`INSERT INTO {}.users VALUES (1, 'c', 's'), (2, 'd', 's') ON CONFLICT (id) DO UPDATE SET name = excluded.name`)
	p.want("upsert", `users.update 1 {"id":1,"name":"c"}`, `users.insert 2 {"id":2,"name":"d"}`)
	_, err := p.pool.CopyFrom(t.Context(), pgx.Identifier{p.schema, "users"}, []string{"id", "name"}, pgx.CopyFromRows([][]any{{int64(3), nil}}))
	must(t, err)
	p.want("copy", `users.insert 3 {"id":3,"name":null}`)
	if p.version() >= 150000 {
		p.exec(`MERGE INTO {}.users u USING (VALUES (2), (3), (4)) AS v (i) ON u.id = v.i
			WHEN MATCHED AND i = 2 THEN DELETE WHEN MATCHED THEN UPDATE SET name = 'm' WHEN NOT MATCHED THEN INSERT (id, name) VALUES (i, 'new')`)
		got := p.published()
		slices.Sort(got)
		if want := []string{`users.delete 2 {"id":2,"name":"d"}`, `users.insert 4 {"id":4,"name":"new"}`, `users.update 3 {"id":3,"name":"m"}`}; !slices.Equal(got, want) {
			t.Errorf("merge: published %q, want %q", got, want)
		}
	}
	p.exec(`DELETE FROM {}.users WHERE id IN (0, 1)`)
	p.want("delete", `users.delete 0 {"id":0,"name":"beforex"}`, `users.delete 1 {"id":1,"name":"c"}`)
	p.exec(`TRUNCATE {}.users`)
	p.want("truncate")
	p.exec(`BEGIN; INSERT INTO {}.users VALUES (5, 'kept', 's'); SAVEPOINT s; INSERT INTO {}.users VALUES (6, 'undone', 's'); ROLLBACK TO s; COMMIT`)
	p.want("savepoint", `users.insert 5 {"id":5,"name":"kept"}`)
	p.exec(`BEGIN; INSERT INTO {}.users VALUES (7, 'undone', 's'); ROLLBACK`)
	p.want("rollback")
}

func (p *shop) version() (n int) {
	p.t.Helper()
	must(p.t, p.pool.QueryRow(p.t.Context(), `SELECT current_setting('server_version_num')::integer`).Scan(&n))
	return n
}

// TestTrackedMessageHasTheDefaultsOfAPlainInsert: and wakes relays, once a statement,
// and by nothing if it has changed nothing.
func TestTrackedMessageHasTheDefaultsOfAPlainInsert(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.track("{}.users", &track.Config{On: []track.Op{track.Update}})
	conn, err := p.pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	channel := p.outbox + ".message"
	nothing := fmt.Sprintf("nothing_%d", schemas.Add(1))
	for _, text := range []string{`LISTEN ` + pgx.Identifier{channel}.Sanitize(), `LISTEN ` + nothing, p.sql(`INSERT INTO {}.users VALUES (1, 'a', 's'), (2, 'b', 's')`),
		p.sql(`UPDATE {}.users SET name = 'x' WHERE false`), `NOTIFY ` + nothing, p.sql(`UPDATE {}.users SET name = 'x'`), `NOTIFY ` + nothing} {
		_, err := conn.Exec(t.Context(), text)
		must(t, err)
	}
	for _, want := range []string{nothing, channel, nothing} {
		if n, err := conn.Conn().WaitForNotification(t.Context()); err != nil || n.Channel != want {
			t.Fatalf("notified of %v, %v, want %s", n, err, want)
		}
	}
	_, err = conn.Exec(t.Context(), `UNLISTEN *`)
	must(t, err)
	rows, err := p.pool.Query(t.Context(), p.sql(`SELECT count(*), count(DISTINCT id), min(type), min(content_type), min(txid) = max(txid),
		bool_and(created_at > now() - interval '1 hour') FROM {outbox}.message`))
	must(t, err)
	got, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	must(t, err)
	if want := "[2 2 users application/json true true]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// TestTrackedTableWithNamesThatNeedCare has columns that are called like what the
// functions use, more of them than a function can have arguments, and one that is gone.
func TestTrackedTableWithNamesThatNeedCare(t *testing.T) {
	t.Parallel()
	var columns strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&columns, ", c%d int DEFAULT %d", i, i)
	}
	p := newShop(t, `CREATE TABLE {}."T'a $track$ ""b\" (gone int, "K'e ""y\" text PRIMARY KEY, r text DEFAULT 'r', t text DEFAULT 't', key text DEFAULT 'key',
		payload text DEFAULT 'p', tg_op text DEFAULT 'op', tg_argv text DEFAULT 'v', changed text DEFAULT 'c', "new" text DEFAULT 'n', "old" text DEFAULT 'o',
		"{topic}" text DEFAULT 'x', f text DEFAULT 'f'`+columns.String()+`); ALTER TABLE {}."T'a $track$ ""b\" DROP COLUMN gone`)
	p.track(`{}."T'a $track$ ""b\"`, &track.Config{Topic: "it's.$track$.{op}"})
	p.exec(`INSERT INTO {}."T'a $track$ ""b\" VALUES ('k,\')`)
	got := p.published()
	if len(got) != 1 || !strings.HasPrefix(got[0], `it's.$track$.insert k,\ {`) {
		t.Fatalf("published %q", got)
	}
	var payload map[string]any
	must(t, json.Unmarshal([]byte(strings.SplitN(got[0], " ", 3)[2]), &payload))
	for name, want := range map[string]any{`K'e "y\`: `k,\`, "r": "r", "t": "t", "key": "key", "payload": "p", "tg_op": "op", "tg_argv": "v", "changed": "c", "new": "n",
		"old": "o", "{topic}": "x", "f": "f", "c0": 0.0, "c1499": 1499.0} {
		if payload[name] != want {
			t.Errorf("%s is %v, want %v", name, payload[name], want)
		}
	}
	if len(payload) != 1512 {
		t.Errorf("the payload has %d fields, want 1512", len(payload))
	}
	must(t, p.Untrack(t.Context(), p.sql(`{}."T'a $track$ ""b\"`)))
}

func TestTrackedColumnsAndTablesMayBeRenamed(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.track("{}.users", nil)
	p.wantChanges()
	p.exec(`ALTER TABLE {}.users RENAME COLUMN name TO full_name; ALTER TABLE {}.users ADD COLUMN more int; INSERT INTO {}.users VALUES (1, 'a', 's', 4)`)
	const row = ` 1 {"id":1,"name":"a","secret":"s"}`
	p.want("renamed", "users.insert"+row)
	p.wantChanges("column name is called full_name now", "column more is new")
	p.exec(`ALTER TABLE {}.users RENAME TO people; ALTER TABLE {}.people RENAME COLUMN id TO number; UPDATE {}.people SET more = 5`)
	p.want("renamed twice", "users.update"+row)
	p.wantChanges("was called "+p.schema+".users", "column id is called number now", "column name is called full_name now", "column more is new")
	p.track("{}.people", &track.Config{Fields: []string{"number", "full_name"}})
	p.wantChanges()
	p.exec(`DELETE FROM {}.people; ALTER TABLE {}.people ADD COLUMN last int`)
	p.want("tracked again", `people.delete 1 {"number":1,"full_name":"a"}`)
	p.wantChanges() // the new column was not asked for
}

func TestDatabaseRefusesToBreakATrackedTable(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.track("{}.users", named)
	for text, want := range map[string]string{
		`ALTER TABLE {}.users DROP COLUMN name`:               "other objects depend on it",
		`ALTER TABLE {}.users ALTER COLUMN name TYPE char(9)`: "used by a function",
		`DROP TABLE {}.users`:                                 "other objects depend on it",
	} {
		if err := p.try(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p.exec(`ALTER TABLE {}.users ALTER COLUMN secret TYPE char(9); ALTER TABLE {}.users DROP COLUMN secret; INSERT INTO {}.users VALUES (1, 'a')`)
	p.want("other columns changed", `users.insert 1 {"id":1,"name":"a"}`)
	p.exec(`ALTER TABLE {}.users DISABLE TRIGGER ALL`)
	p.wantChanges("is switched off", "is switched off", "is switched off")
	p.exec(`ALTER TABLE {}.users ENABLE TRIGGER ALL; ALTER TABLE {}.users DROP COLUMN name CASCADE`)
	p.wantChanges("the function that makes payloads is missing; all writes fail")
	if err := p.try(`INSERT INTO {}.users VALUES (2)`); err == nil {
		t.Error("a write is taken, and nothing is published of it")
	}
	p.track("{}.users", nil)
	p.exec(`INSERT INTO {}.users VALUES (2)`)
	p.want("mended", `users.insert 2 {"id":2}`)
	p.exec(`DROP TABLE {}.users CASCADE; ` + usersDDL) // a trigger function is left
	p.track("{}.users", &track.Config{On: []track.Op{track.Delete}})
	p.exec(`INSERT INTO {}.users VALUES (3); DELETE FROM {}.users`)
	p.want("made again", `users.delete 3 {"id":3,"name":null,"secret":null}`)
}

func TestTrackedPartitionsAndChildren(t *testing.T) {
	t.Parallel()
	p := newShop(t, `CREATE TABLE {}.part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE {}.low (junk int, v text, id int NOT NULL); ALTER TABLE {}.low DROP COLUMN junk;
		ALTER TABLE {}.part ATTACH PARTITION {}.low FOR VALUES FROM (0) TO (10); CREATE TABLE {}.high PARTITION OF {}.part FOR VALUES FROM (10) TO (20);
		CREATE TABLE {}.parent (id int PRIMARY KEY); CREATE TABLE {}.child (extra int) INHERITS ({}.parent)`)
	p.track("{}.part", nil)
	p.exec(`INSERT INTO {}.part VALUES (1, 'a'), (11, 'b')`)
	p.want("insert", `part.insert 1 {"id":1,"v":"a"}`, `part.insert 11 {"id":11,"v":"b"}`)
	p.exec(`UPDATE {}.part SET id = 12 WHERE id = 1`)
	p.want("moved to another partition", `part.update 12 {"id":12,"v":"a"}`)
	p.exec(`UPDATE {}.high SET v = 'x'`)
	p.want("by the partition's name")
	p.track("{}.high", &track.Config{Key: []string{"id"}})
	p.exec(`DELETE FROM {}.part WHERE id = 11; DELETE FROM {}.high`)
	p.want("beside the parent", `part.delete 11 {"id":11,"v":"x"}`, `high.delete 12 {"id":12,"v":"x"}`)
	p.track("{}.parent", nil)
	p.exec(`INSERT INTO {}.child VALUES (1, 2); DELETE FROM {}.parent`)
	p.want("children", `parent.delete 1 {"id":1}`)
}
