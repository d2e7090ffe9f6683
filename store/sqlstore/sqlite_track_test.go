package sqlstore_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/store/track"
)

// trackDesk is a file with an outbox and a table.
type trackDesk struct {
	*sqlstore.Store
	t  *testing.T
	db *sql.DB
}

func newTrackDesk(t *testing.T, ddl string) *trackDesk {
	t.Helper()
	db := openFile(t, newFile(t))
	d := &trackDesk{migrated(t, db, nil), t, db}
	execute(t, db, ddl)
	return d
}

func (d *trackDesk) track(table string, c *track.Config) {
	d.t.Helper()
	if err := d.Track(d.t.Context(), table, c); err != nil {
		d.t.Fatal(err)
	}
}

// want runs a statement, and fails the test unless just these messages come of it:
// topic, key and payload.
func (d *trackDesk) want(text string, lines ...string) {
	d.t.Helper()
	execute(d.t, d.db, text)
	var got []string
	for _, row := range readAll(d.t, d.Store) {
		got = append(got, row.Topic+" "+row.Key+" "+string(row.Payload))
	}
	execute(d.t, d.db, `DELETE FROM outbox_message`)
	if !slices.Equal(got, lines) {
		d.t.Errorf("%s: published\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(lines, "\n"))
	}
}

func (d *trackDesk) wantChanges(words ...string) {
	d.t.Helper()
	tables, err := d.Tracked(d.t.Context())
	if err != nil || len(tables) != 1 {
		d.t.Fatalf("tracked are %+v, %v, want one", tables, err)
	}
	got := tables[0].Changes
	if len(got) != len(words) {
		d.t.Fatalf("changed has %q, want %q", got, words)
	}
	for i, word := range words {
		if !strings.Contains(got[i], word) {
			d.t.Fatalf("changed has %q, want %q", got, words)
		}
	}
}

const usersTable = `CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, secret TEXT)`

var namedUsers = &track.Config{Fields: []string{"ID", "name"}}

func TestSQLiteTrackedTablePublishesEachRow(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("USERS", namedUsers)
	d.want(`INSERT INTO users VALUES (1, 'a', 's'), (9007199254740993, 'b "ü" \', 's')`, `users.insert 1 {"id":1,"name":"a"}`, `users.insert 9007199254740993 {"id":9007199254740993,"name":"b \"ü\" \\"}`)
	d.want(`UPDATE users SET name = NULL`, `users.update 1 {"id":1,"name":null}`, `users.update 9007199254740993 {"id":9007199254740993,"name":null}`)
	d.want(`UPDATE users SET name = 'x' WHERE id = 77`)
	d.want(`INSERT INTO users VALUES (1, 'c', 's'), (2, 'd', 's') ON CONFLICT (id) DO UPDATE SET name = excluded.name`, `users.update 1 {"id":1,"name":"c"}`, `users.insert 2 {"id":2,"name":"d"}`)
	d.want(`REPLACE INTO users VALUES (2, 'e', 's')`, `users.insert 2 {"id":2,"name":"e"}`)
	d.want(`DELETE FROM users`, `users.delete 1 {"id":1,"name":"c"}`, `users.delete 2 {"id":2,"name":"e"}`, `users.delete 9007199254740993 {"id":9007199254740993,"name":null}`)
	d.want(`BEGIN; INSERT INTO users VALUES (5, 'kept', 's'); SAVEPOINT s; INSERT INTO users VALUES (6, 'undone', 's'); ROLLBACK TO s; COMMIT`, `users.insert 5 {"id":5,"name":"kept"}`)
	d.want(`BEGIN; INSERT INTO users VALUES (7, 'undone', 's'); ROLLBACK`)
}

// TestSQLiteReplacePublishesDeletionsIfAsked: SQLite fires no trigger for what REPLACE
// puts away, unless triggers are recursive.
func TestSQLiteReplacePublishesDeletionsIfAsked(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("users", namedUsers)
	d.db.SetMaxOpenConns(1)
	d.want(`PRAGMA recursive_triggers = on; INSERT INTO users VALUES (1, 'a', 's'); REPLACE INTO users VALUES (1, 'b', 's')`,
		`users.insert 1 {"id":1,"name":"a"}`, `users.delete 1 {"id":1,"name":"a"}`, `users.insert 1 {"id":1,"name":"b"}`)
}

// TestSQLiteTrackedValuesOfAllTypes: any column can have any of them.
func TestSQLiteTrackedValuesOfAllTypes(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, `CREATE TABLE "va'l ""u*/e" (k, v INTEGER, twice AS (v || v), "NEW.""v""" DEFAULT 'n', PRIMARY KEY (v, k)) WITHOUT ROWID`)
	d.track(`va'l "u*/e`, &track.Config{Topic: "v"})
	for literal, want := range map[string]string{
		`1.5`: `1.5`, `9e999`: `"Infinity"`, `-9e999`: `"-Infinity"`, `0.1 + 0.2`: `0.30000000000000004`, `1.0e300`: `1.0e+300`, `json('{"a":1}')`: `"{\"a\":1}"`, `x'00ff'`: `"\\x00ff"`, `'text'`: `"text"`, `-9223372036854775808`: `-9223372036854775808`, `'{"a":1}'`: `"{\"a\":1}"`,
	} {
		execute(t, d.db, `INSERT INTO "va'l ""u*/e" (k, v) VALUES ('k', `+literal+`)`)
		rows := readAll(t, d.Store)
		execute(t, d.db, `DELETE FROM "va'l ""u*/e"; DELETE FROM outbox_message`)
		var payload map[string]json.RawMessage
		if err := json.Unmarshal(rows[0].Payload, &payload); err != nil || len(payload) != 4 {
			t.Fatalf("%s: payload %s, %v, want four fields", literal, rows[0].Payload, err)
		}
		if got := string(payload["v"]); got != want {
			t.Errorf("%s: published %s, want %s", literal, got, want)
		}
		text := strings.Trim(want, `"`)
		if want == `"\\x00ff"` || strings.HasPrefix(want, `"{`) {
			_ = json.Unmarshal([]byte(want), &text)
		}
		if rows[0].Key != text+",k" {
			t.Errorf("%s: key %q", literal, rows[0].Key)
		}
	}
	d.wantChanges()
}

func TestSQLiteTrackedColumnsAndTablesMayBeRenamed(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("users", nil)
	d.wantChanges()
	const row = ` 1 {"id":1,"name":"a","secret":"s"}`
	d.want(`ALTER TABLE users RENAME COLUMN name TO "full ""name"; ALTER TABLE users ADD COLUMN more; INSERT INTO users VALUES (1, 'a', 's', 4)`, "users.insert"+row)
	d.wantChanges(`column name is called full "name now`, "column more is new")
	d.want(`ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME COLUMN id TO number; UPDATE people SET more = 5`, "users.update"+row)
	d.wantChanges("was called main.users", "column id is called number now", `column name is called full "name now`, "column more is new")
	execute(t, d.db, usersTable)
	d.track("users", namedUsers) // beside the one that was called so
	d.want(`INSERT INTO users VALUES (2, 'b', 's'); DELETE FROM people`, `users.insert 2 {"id":2,"name":"b"}`, "users.delete"+row)
	for _, table := range []string{"users", "people"} {
		if err := d.Untrack(t.Context(), table); err != nil {
			t.Error(err)
		}
	}
	d.want(`DELETE FROM users; INSERT INTO people (number) VALUES (3)`)
}

// TestSQLiteChangesAreNotReadFromTexts: what a trigger has in its texts is no column
// that it reads.
func TestSQLiteChangesAreNotReadFromTexts(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("users", &track.Config{Fields: []string{"name"}, Key: []string{"name"}, Topic: `it's.NEW."id".{op}`})
	d.wantChanges()
	d.want(`INSERT INTO users VALUES (1, 'a', 's')`, `it's.NEW."id".insert a {"name":"a"}`)
}

func TestSQLiteRefusesToDropAPublishedColumn(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("users", namedUsers)
	if _, err := d.db.ExecContext(t.Context(), `ALTER TABLE users DROP COLUMN name`); err == nil || !strings.Contains(err.Error(), "no such column") {
		t.Errorf("dropping a published column: %v", err)
	}
	d.want(`ALTER TABLE users DROP COLUMN secret; INSERT INTO users VALUES (1, 'a')`, `users.insert 1 {"id":1,"name":"a"}`)
	execute(t, d.db, `DROP TRIGGER outbox_track_users_update`)
	d.wantChanges("the trigger for update is missing")
	d.track("users", namedUsers)
	d.wantChanges()
	execute(t, d.db, `DROP TABLE users`)
	if tables, err := d.Tracked(t.Context()); err != nil || len(tables) != 0 {
		t.Errorf("tracked are %v, %v, want none", tables, err)
	}
}

func TestSQLiteTrackReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable+`; CREATE VIEW seen AS SELECT 1; CREATE TABLE keyless (a); CREATE VIRTUAL TABLE words USING fts5 (word); CREATE TABLE "white space" (id INTEGER PRIMARY KEY)`)
	for _, tc := range []struct {
		table  string
		config track.Config
		want   []string
	}{
		{"users", track.Config{On: []track.Op{"upsert"}, Fields: []string{"id", "ID"}, Topic: "{tabel}"}, []string{`On "upsert" is no change`, `Topic "{tabel}" has braces`}},
		{"users", track.Config{Fields: []string{"id", "ID", "nme"}, Key: []string{"no"}}, []string{`Fields "ID" is given twice`, `Fields "nme" is no column of users, which has id, name, secret`, `Key "no" is no column`}},
		{"nobody", track.Config{}, []string{`Table "nobody" is not there`}},
		{"seen", track.Config{}, []string{`Table "seen" is a view`}},
		{"words", track.Config{}, []string{`is a virtual table`}},
		{"words_data", track.Config{}, []string{`is a part of a virtual table`}},
		{"keyless", track.Config{}, []string{`Key is not given, and keyless has no primary key`}},
		{"white space", track.Config{}, []string{`Topic "{table}.{op}" would be "white space.insert", which`}},
		{"OUTBOX_dead", track.Config{}, []string{`is one of the outbox itself`}},
		{"sqlite_schema", track.Config{}, []string{`is the database's own`}},
	} {
		err := d.Track(t.Context(), tc.table, &tc.config)
		for _, want := range tc.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error is %v, want %q", tc.table, err, want)
			}
		}
		if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != len(tc.want) {
			t.Errorf("%s: the error has %d lines, want %d: %v", tc.table, n, len(tc.want), err)
		}
		if _, printErr := d.TrackSQL(t.Context(), tc.table, &tc.config); fmt.Sprint(printErr) != fmt.Sprint(err) {
			t.Errorf("%s: printing says %v, tracking %v", tc.table, printErr, err)
		}
	}
	if err := d.Untrack(t.Context(), "users"); !errors.Is(err, track.ErrNotTracked) {
		t.Errorf("untracking what is not: %v", err)
	}
	var missing *store.MissingError
	if err := sqlstore.New(d.db, sqlstore.SQLite, &sqlstore.Config{TablePrefix: "none_"}).Track(t.Context(), "users", nil); !errors.As(err, &missing) {
		t.Errorf("without an outbox: %v", err)
	}
}

// TestSQLiteUntrackRemovesWhatTrackHasMadeAlone: and printed SQL does the same.
func TestSQLiteUntrackRemovesWhatTrackHasMadeAlone(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable+`; CREATE TABLE other (id INTEGER PRIMARY KEY); CREATE TRIGGER mine AFTER INSERT ON users BEGIN SELECT 1; END`)
	triggers := func() (all string) {
		err := d.db.QueryRowContext(t.Context(), `SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY sql)`).Scan(&all)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	other := migrated(t, d.db, &sqlstore.Config{TablePrefix: "outbox_track_"})
	if err := other.Track(t.Context(), "users", nil); err != nil {
		t.Fatal(err)
	}
	d.track("other", nil)
	before := triggers()
	printed := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	text := printed(d.TrackSQL(t.Context(), "users", namedUsers))
	if triggers() != before {
		t.Fatal("printing has changed something")
	}
	d.track("users", nil)
	d.track("users", namedUsers)
	tracked, drop := triggers(), printed(d.UntrackSQL(t.Context(), "users"))
	if err := d.Untrack(t.Context(), "users"); err != nil || triggers() != before {
		t.Errorf("untracking has not left what was there before: %v", err)
	}
	execute(t, d.db, text)
	if triggers() != tracked {
		t.Error("the printed SQL does not do what tracking does")
	}
	execute(t, d.db, drop)
	if triggers() != before {
		t.Error("the printed SQL does not do what untracking does")
	}
	if tables, err := other.Tracked(t.Context()); err != nil || len(tables) != 1 {
		t.Errorf("the other outbox tracks %+v, %v", tables, err)
	}
}

// TestTrackOnPostgresByDatabaseSQL: the statements are those of pgxstore, where their
// tests are.
func TestTrackOnPostgresByDatabaseSQL(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"pgx", "postgres"} {
		n := schemas.Add(1)
		db := openPostgres(t, driver)
		s := sqlstore.New(db, sqlstore.PostgreSQL, &sqlstore.Config{Schema: fmt.Sprintf("tracking_%d", n)})
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		table := fmt.Sprintf("tracked_%d", n)
		execute(t, db, `CREATE TABLE `+table+` (id int PRIMARY KEY, name text)`)
		if err := s.Track(t.Context(), table, &track.Config{On: []track.Op{track.Insert}, Topic: "t.{op}"}); err != nil {
			t.Fatal(err)
		}
		execute(t, db, `INSERT INTO `+table+` VALUES (1, 'a')`)
		pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 9})
		if err != nil || len(pages[0].Rows) != 1 || string(pages[0].Rows[0].Payload) != `{"id":1,"name":"a"}` {
			t.Errorf("%s: read %+v, %v", driver, pages, err)
		}
		if tables, err := s.Tracked(t.Context()); err != nil || len(tables) != 1 || len(tables[0].Changes) != 0 {
			t.Errorf("%s: tracked are %+v, %v", driver, tables, err)
		}
		if err := s.Untrack(t.Context(), table); err != nil {
			t.Error(err)
		}
		execute(t, db, `DROP TABLE `+table)
	}
}

func TestSQLiteTrackedKeyThatIsTooLongIsShortened(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, `CREATE TABLE long (k TEXT, n)`)
	d.track("long", &track.Config{Fields: []string{"n"}, Key: []string{"k", "n"}, Topic: "t"})
	x, u := strings.Repeat("x", 510), strings.Repeat("ü", 100)
	d.want(`INSERT INTO long VALUES ('`+x+`', 1), ('`+strings.Repeat(u, 9)+`', 2), (NULL, 3)`, `t `+x+`,1 {"n":1}`, `t `+u+`:1802 {"n":2}`, `t  {"n":3}`)
}

// TestSQLiteTracksWideTables: of more columns than an expression may be deep. One has
// an empty name.
func TestSQLiteTracksWideTables(t *testing.T) {
	t.Parallel()
	var columns strings.Builder
	for i := range 1900 {
		fmt.Fprintf(&columns, `, c%d DEFAULT %[1]d`, i)
	}
	d := newTrackDesk(t, `CREATE TABLE wide (id INTEGER PRIMARY KEY, "" DEFAULT 'none'`+columns.String()+`)`)
	d.track("wide", nil)
	d.wantChanges()
	execute(t, d.db, `INSERT INTO wide (id) VALUES (1)`)
	var payload map[string]any
	if err := json.Unmarshal(readAll(t, d.Store)[0].Payload, &payload); err != nil || len(payload) != 1902 || payload["c1899"] != 1899.0 || payload[""] != "none" {
		t.Errorf("the payload has %d fields, %v, want 1902", len(payload), err)
	}
}

func TestSQLiteTemporaryTableDoesNotTakeTheTriggers(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.db.SetMaxOpenConns(1)
	execute(t, d.db, `CREATE TEMP TABLE users (id INTEGER PRIMARY KEY, name TEXT)`)
	d.track("users", namedUsers)
	d.track("users", namedUsers)
	d.want(`INSERT INTO temp.users VALUES (1, 'a'); INSERT INTO main.users VALUES (2, 'b', 's')`, `users.insert 2 {"id":2,"name":"b"}`)
	d.wantChanges()
}

// TestSQLiteTrackingSuitsOlderVersions, which other programs may bring: before 3.42 the
// default of created_at is NULL, and json_quote and CAST write 15 digits.
func TestSQLiteTrackingSuitsOlderVersions(t *testing.T) {
	t.Parallel()
	d := newTrackDesk(t, usersTable)
	d.track("users", nil)
	var triggers, giving int
	err := d.db.QueryRowContext(t.Context(), `SELECT count(*), count(*) FILTER (WHERE sql LIKE '%(created_at, topic,%' AND sql NOT LIKE '%unixepoch%' AND instr(sql, 'printf(''%!.17g''') > 0)
		FROM sqlite_schema WHERE type = 'trigger'`).Scan(&triggers, &giving)
	if err != nil || triggers != 3 || giving != 3 {
		t.Errorf("%d of %d triggers give the time and all digits, %v, want 3", giving, triggers, err)
	}
	var near bool
	execute(t, d.db, `INSERT INTO users (id) VALUES (1)`)
	err = d.db.QueryRowContext(t.Context(), `SELECT typeof(created_at) = 'integer' AND created_at % 1000 = 0
		AND abs(created_at / 1e6 - unixepoch('subsec')) < 3600 FROM outbox_message`).Scan(&near)
	if err != nil || !near {
		t.Errorf("the message's time is not now in microseconds: %v", err)
	}
}
