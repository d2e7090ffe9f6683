package pgxstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/track"
)

func TestTrackReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL+`; CREATE VIEW {}.view AS SELECT 1 AS id; CREATE MATERIALIZED VIEW {}.mat AS SELECT 1 AS id; CREATE SEQUENCE {}.seq;
		CREATE TABLE {}.keyless (a int); CREATE TABLE {}.empty (); CREATE TABLE {}."white space" (id int PRIMARY KEY); CREATE TABLE {}."Capital" (id int PRIMARY KEY);
		CREATE TABLE {}."de`+"\x7f"+`l" (id int PRIMARY KEY)`)
	for _, tc := range []struct {
		table  string
		config track.Config
		want   []string
	}{
		{"{}.users", track.Config{On: []track.Op{"truncate", "insert", "insert"}, Fields: []string{"", "id", "id"}, Topic: "a..{o}", Key: []string{""}}, []string{
			`On "truncate" is no change`, `On "insert" is given twice`, `Fields has an empty name`, `Fields "id" is given twice`, `Topic "a..{o}" has braces`,
			`Topic "a..{o}" has an empty word`, `Key has an empty name`}},
		{"{}.users", track.Config{Fields: []string{"nme", "Id"}, Key: []string{"no"}}, []string{
			`Fields "nme" is no column of users, which has id, name, secret`, `Fields "Id" is no column`, `Key "no" is no column`}},
		{"{}.nobody", track.Config{}, []string{`is not there: write it as in SQL`}},
		{"{}.Capital", track.Config{}, []string{`in double quotes if it has capitals`}},
		{"{}.view", track.Config{}, []string{`Table "view" is a view`}},
		{"{}.mat", track.Config{}, []string{`is a materialized view`}},
		{"{}.seq", track.Config{}, []string{`is a sequence`}},
		{"{}.keyless", track.Config{}, []string{`Key is not given, and keyless has no primary key`}},
		{"{}.empty", track.Config{}, []string{`has no columns`, `has no primary key`}},
		{`{}."white space"`, track.Config{}, []string{`Topic "{table}.{op}" would be "white space.insert", which`}},
		{"{outbox}.message", track.Config{}, []string{`is one of the outbox itself`}},
		{"pg_class", track.Config{}, []string{`is the database's own`}},
		{`a.b.c.d`, track.Config{}, []string{`Table "a.b.c.d" is no name as in SQL`}},
		{`a.b.c`, track.Config{}, []string{`is no name as in SQL`}},
		{`a b`, track.Config{}, []string{`is no name as in SQL`}},
		{`"x`, track.Config{}, []string{`is no name as in SQL`}},
		{"", track.Config{}, []string{`Table is no name as in SQL`}},
		{"{}.\"de\x7fl\"", track.Config{Topic: "t"}, []string{`has the control character '\x7f', and the messages' type is the name`}},
	} {
		err := p.Track(t.Context(), p.sql(tc.table), &tc.config)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %v, want %q", tc.table, err, want)
			}
		}
		if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != len(tc.want) {
			t.Errorf("%s: the error has %d lines, want %d: %v", tc.table, n, len(tc.want), err)
		}
		_, printErr := p.TrackSQL(t.Context(), p.sql(tc.table), &tc.config)
		if fmt.Sprint(printErr) != fmt.Sprint(err) {
			t.Errorf("%s: printing says %v, tracking %v", tc.table, printErr, err)
		}
	}
	if err := p.Untrack(t.Context(), p.sql("{}.users")); !errors.Is(err, track.ErrNotTracked) {
		t.Errorf("untracking what is not: %v", err)
	}
	names := []string{"a b", "nobody"}
	if _, err := p.Tracked(t.Context(), names...); !errors.As(err, new(*track.FieldError)) || strings.Contains(err.Error(), "SQLSTATE") {
		t.Errorf("tracked %q: %v", names, err)
	}
	bare, _ := storeIn(t, p.pool, nil)
	var missing *store.MissingError
	if err := bare.Track(t.Context(), p.sql("{}.users"), nil); !errors.As(err, &missing) {
		t.Errorf("without an outbox: %v", err)
	}
}

// TestUntrackRemovesWhatTrackHasMadeAlone: and printed SQL does the same.
func TestUntrackRemovesWhatTrackHasMadeAlone(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL+`; CREATE TABLE {}.other (id int PRIMARY KEY);
		CREATE FUNCTION {}.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER mine AFTER INSERT ON {}.users EXECUTE FUNCTION {}.mine()`)
	inventory := func() (n string) {
		must(t, p.pool.QueryRow(t.Context(), `SELECT string_agg(what, ' ' ORDER BY what) FROM (
			SELECT tgname::text || ' ' || pg_get_triggerdef(t.oid) || tgenabled::text AS what FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = any ($1::regnamespace[])
			UNION ALL SELECT pg_get_functiondef(oid) || coalesce(obj_description(oid, 'pg_proc'), '') FROM pg_proc WHERE pronamespace = any ($1::regnamespace[])) AS all_of_it`,
			[]string{pgx.Identifier{p.schema}.Sanitize(), pgx.Identifier{p.outbox}.Sanitize()}).Scan(&n))
		return n
	}
	p.track("{}.other", nil)
	before := inventory()
	text, err := p.TrackSQL(t.Context(), p.sql("{}.users"), named)
	must(t, err)
	if inventory() != before {
		t.Fatal("printing has changed something")
	}
	p.track("{}.users", named)
	tracked := inventory()
	drop, err := p.UntrackSQL(t.Context(), p.sql("{}.users"))
	must(t, err)
	must(t, p.Untrack(t.Context(), p.sql("{}.users")))
	if inventory() != before {
		t.Error("untracking has not left what was there before")
	}
	p.exec(text)
	if inventory() != tracked {
		t.Error("the printed SQL does not do what tracking does")
	}
	p.exec(drop)
	if inventory() != before {
		t.Error("the printed SQL does not do what untracking does")
	}
}

// TestSeveralOutboxesTrackOneTable: each by itself, also two in one schema.
func TestSeveralOutboxesTrackOneTable(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL+`; CREATE TABLE {outbox}.users (id int PRIMARY KEY)`)
	other := newStore(t, p.pool, &pgxstore.Config{Schema: p.outbox, TablePrefix: "track_"})
	must(t, other.Migrate(t.Context()))
	p.track("{}.users", named)
	must(t, other.Track(t.Context(), p.sql("{}.users"), nil))
	p.track("{outbox}.users", nil) // of the same name
	p.exec(`INSERT INTO {}.users VALUES (1, 'a', 's'); INSERT INTO {outbox}.users VALUES (2)`)
	p.want("both tables", `users.insert 1 {"id":1,"name":"a"}`, `users.insert 2 {"id":2}`)
	for s, want := range map[*pgxstore.Store]int{p.Store: 2, other: 1} {
		if tables, err := s.Tracked(t.Context()); err != nil || len(tables) != want {
			t.Errorf("tracked are %+v, %v, want %d", tables, err, want)
		}
	}
	must(t, other.Untrack(t.Context(), p.sql("{}.users")))
	p.exec(`DELETE FROM {}.users`)
	p.want("the other one is left", `users.delete 1 {"id":1,"name":"a"}`)
}

// TestTrackReplacesNoTriggerOfOthers: neither of an outbox of which schema and prefix
// come to the same, nor the user's own, also if their names are as long as can be.
func TestTrackReplacesNoTriggerOfOthers(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 40} {
		p := newShop(t, usersDDL+`; CREATE FUNCTION {}.mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {}.seen VALUES (1); RETURN NULL; END $$; CREATE TABLE {}.seen (n int)`)
		schema := fmt.Sprintf("twin%d", schemas.Add(1)) + strings.Repeat("é", length/2)
		outboxes := []*shop{p}
		for _, c := range []*pgxstore.Config{{Schema: schema, TablePrefix: "bill_"}, {Schema: schema + "_bill"}} {
			s := newStore(t, p.pool, c)
			t.Cleanup(func() {
				_, _ = p.pool.Exec(context.Background(), `DROP SCHEMA IF EXISTS `+pgx.Identifier{c.Schema}.Sanitize()+` CASCADE`)
			})
			must(t, s.Migrate(t.Context()))
			outboxes = append(outboxes, &shop{s, t, p.pool, c.Schema, p.schema})
		}
		for op, name := range map[string]string{"INSERT": "insert", "UPDATE": "insert_2"} {
			name = strings.ToValidUTF8(schema+"_bill_track_"+name, "")
			for len(name) > 63 {
				name = string([]rune(name)[1:])
			}
			p.exec(`CREATE TRIGGER "` + name + `" AFTER ` + op + ` ON {}.users EXECUTE FUNCTION {}.mine()`)
		}
		for range 2 { // names are kept
			for _, o := range outboxes {
				o.track("{}.users", named)
			}
		}
		p.exec(`INSERT INTO {}.users VALUES (1, 'a', 's'); UPDATE {}.users SET name = 'b'; DELETE FROM {}.users`)
		for _, o := range outboxes {
			o.want(o.outbox, `users.insert 1 {"id":1,"name":"a"}`, `users.update 1 {"id":1,"name":"b"}`, `users.delete 1 {"id":1,"name":"b"}`)
			must(t, o.Untrack(t.Context(), p.sql("{}.users")))
		}
		var seen, left int
		must(t, p.pool.QueryRow(t.Context(), p.sql(`SELECT (SELECT count(*) FROM {}.seen), (SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::regclass)`), p.sql("{}.users")).Scan(&seen, &left))
		if seen != 2 || left != 2 {
			t.Errorf("%d statements seen, %d triggers left, want 2 of the user's own", seen, left)
		}
	}
}

// TestTrackingAgainLosesAndDoublesNothing: while others write, what is tracked
// changes all the time.
func TestTrackingAgainLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	const writers, rows, changes = 4, 150, 12
	p := newShop(t, usersDDL)
	p.track("{}.users", named)
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := range rows {
				if err := p.try(fmt.Sprintf(`BEGIN; INSERT INTO {}.users VALUES (%d, 'a', 's'); UPDATE {}.users SET name = 'b' WHERE id = %[1]d; COMMIT`, w*rows+i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range changes {
		p.track("{}.users", []*track.Config{nil, named, {Topic: "{op}.users", Key: []string{"id", "name"}}}[i%3])
	}
	running.Wait()
	counts := map[string]int{}
	for _, line := range p.published() {
		var row struct{ ID int }
		must(t, json.Unmarshal([]byte(strings.SplitN(line, " ", 3)[2]), &row))
		counts[fmt.Sprint(strings.Contains(strings.Fields(line)[0], "insert"), row.ID)]++
	}
	for id := range writers * rows {
		for _, insert := range []bool{true, false} {
			if n := counts[fmt.Sprint(insert, id)]; n != 1 {
				t.Fatalf("row %d: insert %v published %d times", id, insert, n)
			}
		}
	}
}

// TestTrackWaitsForWriters, and others for it, two seconds at most.
func TestTrackWaitsForWriters(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	long := begin(t, p.pool)
	_, err := long.Exec(t.Context(), p.sql(`INSERT INTO {}.users VALUES (1, 'a', 's')`))
	must(t, err)
	tracked := make(chan error, 1)
	go func() { tracked <- p.Track(context.Background(), p.sql("{}.users"), named) }()
	waitFor(t, p.pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND mode = 'ShareRowExclusiveLock' AND NOT granted)`, p.sql("{}.users"))
	p.exec(`INSERT INTO {}.users VALUES (2, 'b', 's')`) // until it gives way
	must(t, long.Commit(t.Context()))
	must(t, <-tracked)
	p.exec(`DELETE FROM {}.users WHERE id = 1`)
	p.want("all from then on", `users.delete 1 {"id":1,"name":"a"}`)
}

// TestTrackingLessDeadlocksWithNobody: who has read the table before can write it while
// triggers wait to be removed.
func TestTrackingLessDeadlocksWithNobody(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.track("{}.users", named)
	reader := begin(t, p.pool)
	_, err := reader.Exec(t.Context(), p.sql(`SELECT FROM {}.users`))
	must(t, err)
	tracked := make(chan error, 1)
	go func() {
		tracked <- p.Track(context.Background(), p.sql("{}.users"), &track.Config{On: []track.Op{track.Delete}})
	}()
	waitFor(t, p.pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)`, p.sql("{}.users"))
	_, err = reader.Exec(t.Context(), p.sql(`INSERT INTO {}.users VALUES (1, 'a', 's')`))
	must(t, err)
	must(t, reader.Commit(t.Context()))
	must(t, <-tracked)
	p.want("before", `users.insert 1 {"id":1,"name":"a"}`)
	p.exec(`UPDATE {}.users SET name = 'b'; DELETE FROM {}.users`)
	p.want("after", `users.delete 1 {"id":1,"name":"b","secret":"s"}`)
}

// TestDumpKeepsTracking: the database that a dump is restored to publishes, and knows
// what had changed. There columns have other numbers.
func TestDumpKeepsTracking(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	from, to := pg.NewDatabase(t), pg.NewDatabase(t)
	pool := openPool(t, from)
	s := newStore(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	exec(t, pool, `CREATE TABLE users (gone int, id int PRIMARY KEY, name text)`)
	exec(t, pool, `ALTER TABLE users DROP COLUMN gone`)
	must(t, s.Track(t.Context(), "users", named))
	exec(t, pool, `ALTER TABLE users RENAME COLUMN name TO full_name`)
	var binaries string
	must(t, pool.QueryRow(t.Context(), `SELECT setting FROM pg_config WHERE name = 'BINDIR'`).Scan(&binaries))
	dump, err := os.CreateTemp(t.TempDir(), "dump")
	must(t, err)
	for _, args := range [][]string{{"pg_dump", "--file", dump.Name(), from}, {"psql", "--set", "ON_ERROR_STOP=1", "--file", dump.Name(), to}} {
		if out, err := osexec.CommandContext(t.Context(), filepath.Join(binaries, args[0]), args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args[0], err, out)
		}
	}
	restored := &shop{newStore(t, openPool(t, to), nil), t, openPool(t, to), "outbox", "public"}
	restored.exec(`INSERT INTO users VALUES (1, 'a')`)
	restored.want("restored", `users.insert 1 {"id":1,"name":"a"}`)
	restored.wantChanges("column name is called full_name now")
	must(t, restored.Untrack(t.Context(), "users"))
}

func TestTrackedFunctionsNeedNoRightsButThoseOfAnEmitter(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	role := fmt.Sprintf("writer_%d", schemas.Add(1))
	p.exec(`CREATE ROLE ` + role + `; GRANT USAGE ON SCHEMA {}, {outbox} TO ` + role + `; GRANT INSERT ON {}.users, {outbox}.message TO ` + role)
	t.Cleanup(func() {
		_, _ = p.pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role)
	})
	// New functions are for their owner alone, here for the time of a transaction.
	first, err := p.TrackSQL(t.Context(), p.sql("{}.users"), named)
	must(t, err)
	p.exec(`BEGIN; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; ` + inside(first) + `
		ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC; COMMIT`)
	// What others call like what the functions use does not get in between.
	p.exec(`CREATE FUNCTION {}.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''evil'''; CREATE FUNCTION {}.convert_to(text, text) RETURNS bytea LANGUAGE sql AS 'SELECT ''evil''::bytea';
		CREATE FUNCTION {}.json_build_array(bigint) RETURNS json LANGUAGE sql AS 'SELECT ''["evil"]''::json'; CREATE TABLE {}.changed (id int); CREATE TABLE {}.message (id int)`)
	text, err := p.TrackSQL(t.Context(), p.sql("{}.users"), named)
	must(t, err)
	for _, before := range []string{"", text} { // tracked again, among them
		p.exec(`SET search_path = {}, pg_catalog; ` + before + `; SET ROLE ` + role + `; INSERT INTO users VALUES (1, 'a', 's'); RESET ROLE; TRUNCATE {}.users; RESET ALL`)
		p.want("as the role", `users.insert 1 {"id":1,"name":"a"}`)
	}
	// Nor a type of the session's own.
	p.exec(`CREATE DOMAIN pg_temp.text AS int4; ` + text + `; INSERT INTO {}.users VALUES (1, 'a', 's'); DISCARD TEMP; TRUNCATE {}.users`)
	p.want("with a temporary type", `users.insert 1 {"id":1,"name":"a"}`)
	p.exec(`REVOKE INSERT ON {outbox}.message FROM ` + role)
	if err := p.try(`SET ROLE ` + role + `; INSERT INTO {}.users VALUES (2, 'a', 's')`); err == nil || !strings.Contains(err.Error(), "permission denied for table message") {
		t.Errorf("without the right to emit: %v", err)
	}
	p.want("without the right")
}

// inside returns printed SQL without its BEGIN and COMMIT.
func inside(text string) string {
	return strings.TrimSuffix(strings.TrimPrefix(text, "BEGIN;"), "COMMIT;\n")
}

// TestPrintedSQLChangesATrackedColumn: in one transaction with the change, whatever
// else is tracked then.
func TestPrintedSQLChangesATrackedColumn(t *testing.T) {
	t.Parallel()
	p := newShop(t, usersDDL)
	p.track("{}.users", nil)
	for change, c := range map[string]*track.Config{
		`ALTER TABLE {}.users ALTER COLUMN name TYPE varchar(9)`: nil,
		`ALTER TABLE {}.users DROP COLUMN secret`:                {Fields: []string{"id", "name"}, On: []track.Op{track.Insert}},
	} {
		text, err := p.TrackSQL(t.Context(), p.sql("{}.users"), c)
		must(t, err)
		p.exec(`SET search_path = {}; BEGIN; ` + inside(p.dropSQL()) + strings.ReplaceAll(change, "{}.", "") + `;` + inside(text) + `COMMIT; RESET ALL`)
		p.track("{}.users", c)
		p.wantChanges()
	}
	text := p.dropSQL()
	p.exec(text + text) // and twice does no harm
}

func (p *shop) dropSQL() string {
	p.t.Helper()
	text, err := p.UntrackSQL(p.t.Context(), p.sql("{}.users"))
	must(p.t, err)
	return text
}
