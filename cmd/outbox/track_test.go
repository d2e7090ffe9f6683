package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

const usersTable = `CREATE TABLE users (id integer PRIMARY KEY, name text, secret text)`

// sentBy relays what is in the outbox and returns topic, key and payload of each.
func (d *desk) sentBy(text string) (sent []string) {
	d.t.Helper()
	d.sql(text)
	got := d.call("relay", "--once")
	got.want(d.t, 0)
	for _, message := range lines(d.t, got.stdout) {
		payload, err := json.Marshal(message["payload"])
		if err != nil {
			d.t.Fatal(err)
		}
		sent = append(sent, fmt.Sprint(message["topic"], " ", message["key"], " ", string(payload)))
	}
	return sent
}

func (d *desk) wantSent(text string, want ...string) {
	d.t.Helper()
	if got := d.sentBy(text); fmt.Sprint(got) != fmt.Sprint(want) {
		d.t.Errorf("%s: sent %v, want %v", text, got, want)
	}
}

func TestTableIsTrackedCheckedAndUntracked(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.sql(usersTable)
		d.wantPrinted("", "track", "--list")
		d.wantPrinted("tracked: users\n", "track", "users", "--on", "insert,update,delete", "--fields", "id,name", "--topic", "users.{op}", "--key", "id")
		d.wantSent(`INSERT INTO users VALUES (1, 'a', 's'), (2, 'b', 's')`, `users.insert 1 {"id":1,"name":"a"}`, `users.insert 2 {"id":2,"name":"b"}`)
		d.wantPrinted("", "track", "--check")
		d.call("track", "--list", "users").want(t, 0, "TABLE", "users", "insert,update,delete", "users.{op}", "id,name")
		d.wantSent(`ALTER TABLE users RENAME COLUMN name TO full_name; UPDATE users SET full_name = 'x' WHERE id = 1`, `users.update 1 {"id":1,"name":"x"}`)
		d.call("track", "--check").want(t, exitFailure, "users: column name is called full_name now", "1 table has changed", "`outbox track`")
		checked := d.call("track", "--check", "users", "--json")
		checked.want(t, exitFailure)
		if got := lines(t, checked.stdout); len(got) != 1 || len(got[0]["changes"].([]any)) != 1 {
			t.Errorf("checked %v", got)
		}
		d.call("track", "users", "--on", "delete", "--topic", "gone").want(t, 0)
		d.wantSent(`UPDATE users SET full_name = 'y'; DELETE FROM users WHERE id = 2`, `gone 2 {"full_name":"y","id":2,"secret":"s"}`)
		d.wantPrinted("not tracked any more: users\n", "untrack", "users")
		d.wantSent(`DELETE FROM users`)
		for _, args := range [][]string{{"untrack", "users"}, {"track", "--check", "users"}} {
			d.call(args...).want(t, exitFailure, "users", "table is not tracked", "`outbox track --list`")
		}
		d.wantPrinted("", "track", "--list", "--json")
	})
}

// TestTrackingIsPrinted: what is printed does what tracking does, in the database's
// own tools.
func TestTrackingIsPrinted(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.sql(usersTable)
		text := d.call("track", "users", "--print").stdout
		d.wantPrinted("", "track", "--list")
		d.sql(text)
		listed := lines(t, d.call("track", "--list", "--json").stdout)
		if len(listed) != 1 || fmt.Sprint(listed[0]["on"], listed[0]["topic"], listed[0]["key"], listed[0]["fields"], listed[0]["changes"]) !=
			"[insert update delete]{table}.{op}[id] [id name secret] []" {
			t.Errorf("tracked are %v", listed)
		}
		d.wantSent(`INSERT INTO users VALUES (1, 'a', 's')`, `users.insert 1 {"id":1,"name":"a","secret":"s"}`)
		d.sql(d.call("untrack", "users", "--print").stdout)
		d.wantPrinted("", "track", "--list")
	})
}

// TestPublishedColumnIsDroppedByPrintedSQL: all in one transaction, as it is written in
// docs/operations.md.
func TestPublishedColumnIsDroppedByPrintedSQL(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		inside := func(args ...string) string {
			got := d.call(args...)
			got.want(t, 0)
			text := strings.TrimPrefix(strings.TrimPrefix(got.stdout, "BEGIN IMMEDIATE;"), "BEGIN;")
			return strings.TrimSuffix(text, "COMMIT;\n")
		}
		d.sql(usersTable)
		d.call("track", "users").want(t, 0)
		without := []string{"track", "users", "--fields", "id,name", "--on", "insert,delete"}
		d.sql("BEGIN; " + inside("untrack", "users", "--print") + `ALTER TABLE users DROP COLUMN secret;` + inside(append(without, "--print")...) + "COMMIT")
		d.wantSent(`INSERT INTO users VALUES (1, 'a')`, `users.insert 1 {"id":1,"name":"a"}`)
		d.call(without...).want(t, 0)
		d.wantPrinted("", "track", "--check")
		d.wantSent(`UPDATE users SET name = 'b'; DELETE FROM users`, `users.delete 1 {"id":1,"name":"b"}`)
	})
}

func TestTrackReportsAllThatIsWrong(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.sql(usersTable + `; CREATE VIEW seen AS SELECT 1 AS id`)
		for _, tc := range []struct {
			args string
			want []string
		}{
			{"track", []string{"TABLE: is not given"}},
			{"track users seen", []string{`TABLE "users seen": is more than one`}},
			{"track users --on insert,upsert --fields id,id --topic a..b --key=", []string{"the configuration has 4 problems", `--on "upsert": is no change`,
				`--fields "id": is given twice`, `--topic "a..b": has an empty word`, "--key: is empty"}},
			{"track users --fields id,nme --key no", []string{"the configuration has 2 problems", `--fields "nme": is no column of users, which has id, name, secret`, `--key "no": is no column`}},
			{"track --list --check --print --on insert", []string{"--print: is given beside", "--on: is given beside", "--check: is given beside --list"}},
			{"track users --json", []string{"--json: is of use with --list or --check alone"}},
			{"track nobody", []string{`TABLE "nobody": is not there`}},
			{"track seen", []string{`TABLE "seen": is a view`}},
			{"track --check nobody", []string{`TABLE "nobody": is not there`}},
			{"untrack nobody", []string{`TABLE "nobody": is not there`}},
			{"untrack", []string{"accepts 1 arg(s)"}},
		} {
			got := d.call(strings.Fields(tc.args)...)
			t.Run(tc.args, func(t *testing.T) { got.want(t, exitUsage, tc.want...) })
		}
		d.wantPrinted("", "track", "--list")
	})
}

func TestTrackConnectsToNothingBeforeItsFlagsAreRight(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "track", "users", "--on", "all", "--database-url", "postgres://app:geheim@127.0.0.1:1/d").want(t, exitUsage, "the configuration is wrong: --on")
	got := call(t, nil, "", "track", "users", "--database-url", "postgres://app:geheim@127.0.0.1:1/d")
	got.want(t, exitFailure, "track in postgres://app:xxxxx@127.0.0.1:1/d")
	if strings.Contains(got.stderr, "geheim") {
		t.Errorf("a password is shown: %s", got.stderr)
	}
	path := sqliteFile(t)
	sqliteExec(t, path, usersTable)
	call(t, nil, "", "track", "users", "--database-url", "sqlite:"+path, "--database-table-prefix", "none_").want(t, exitFailure, "none_message is missing", "run `outbox migrate`")
}
