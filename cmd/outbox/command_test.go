package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/cmd/outbox/internal/demo"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestHelpShowsDefaultsAndVariables(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "--help").want(t, 0, "demo", "migrate", "relay", "emit", "purge", "version", "OUTBOX_CONFIG")
	call(t, nil, "", "relay", "--help").want(t, 0,
		"--database-url URL", "[OUTBOX_DATABASE_URL]", "[OUTBOX_RELAY_LEASE_TTL] (default 10s)", "(default 16MiB)", "[OUTBOX_CONFIG]")
	call(t, nil, "", "demo", "--help").want(t, 0, "(default 10000)", "(default warn)")
	call(t, nil, "", "emit", "--help").want(t, 0, "--header name=value")
	call(t, nil, "", "migrate", "--help").want(t, 0, "--print", "inbox")
	call(t, nil, "", "purge", "--help").want(t, 0, "--older-than age", "(default 1000)", "are never deleted", "--sent")
	call(t, nil, "", "subscribe", "--help").want(t, 0, "--queue name", "[OUTBOX_SUBSCRIBE_QUEUE]", "--topic patterns", "(default 1s,10s,1m,5m)", "--exec program",
		"INSERT INTO outbox.inbox", "[OUTBOX_BROKER_QUEUE_TYPE]")
	call(t, nil, "", "send", "--help").want(t, 0, "--lines", "--broker-mode word", "[OUTBOX_BROKER_DESTINATION]")
	call(t, nil, "", "--help").want(t, 0, "send ", "subscribe ")
	for command, flag := range map[string]string{"subscribe": "--broker-unroutable", "send": "--broker-queue-type", "relay": "--broker-exclusive"} {
		if strings.Contains(call(t, nil, "", command, "--help").stdout, flag) {
			t.Errorf("%s takes %s, which it does not heed", command, flag)
		}
	}
	call(t, nil, "", "--help").want(t, 0, "dead ", "messages ", "pause ", "resume ", "stats ")
	call(t, nil, "", "dead", "--help").want(t, 0, "list ", "show ", "export ", "redrive ", "discard ")
	call(t, nil, "", "messages", "--help").want(t, 0, "list ", "show ", "retry ", "cancel ")
	demo := call(t, nil, "", "demo", "--help")
	for _, flag := range []string{"--relay-route", "--relay-outboxes", "--relay-listen", "--relay-rename"} {
		if strings.Contains(demo.stdout, flag) {
			t.Errorf("the demo takes %s, which it does not heed", flag)
		}
	}
}

func TestWrongUsageExitsWith2(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, want string }{
		{"dmo", "Did you mean this?\n\tdemo"},
		{"relay --windw 1", "unknown flag: --windw\nRun 'outbox relay --help'"},
		{"relay now", "outbox relay takes no arguments"},
		{"relay --database-url --broker-url stomp://x:geheim@h", "takes no arguments"},
		{"messages list --database-url --limit stomp://x:geheim@h", `ID "stomp://x:xxxxx@h": is not a UUID`},
		{"relay", "database.url: is not set"},
		{"stats --database-url=", "database.url (flag --database-url): is empty"},
		{"relay --database-url postgres://h/d --broker-url=", "broker.url (flag --broker-url): is empty"},
		{"demo --messages 0 --keys 0 --relays 65 --timeout -1s", "4 problems"},
		{"demo --messages many", "invalid argument"},
		{"demo --broker-url stdout:", "delivers to no worker"},
		{"demo --broker-url stomp://h", "delivers to no worker"},
		{"demo --broker-url https://h/", "delivers to no worker"},
		{"demo --database-url mysql://u:geheim@h/d", "has the unknown scheme mysql"},
		{"migrate --dialect postgres", "is of use with --print alone"},
		{"migrate --print --dialect oracle", "must be postgres or sqlite"},
		{"emit --data 1 --file x --topic a --database-url postgres://h/d", "is given beside --data"},
	} {
		got := call(t, nil, "", strings.Fields(tc.args)...)
		t.Run(tc.args, func(t *testing.T) { got.want(t, exitUsage, tc.want) })
		if strings.Contains(got.stderr, "geheim") {
			t.Errorf("a password is shown: %s", got.stderr)
		}
	}
}

func TestConfigurationIsCheckedAsAWholeBeforeAnythingConnects(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "outbox.yaml")
	const text = "database: {url: 'postgres://app:ge/heim@127.0.0.1:1/shop', schma: s}\nrelay: {window: 0}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"OUTBOX_CONFIG": file, "OUTBOX_BROKER_URL": "amqp://app:ge%zzheim@127.0.0.1:1/", "OUTBOX_DATABASE_LISTEN_URL": "sqlite:x"}
	got := call(t, env, "", "relay", "--log-level", "lod", "--database-table-prefix", strings.Repeat("p", 40))
	got.want(t, exitUsage, "the configuration has 7 problems",
		`database.url "postgres://app:xxxxx@127.0.0.1:1/shop" (`+file+`:1): is not a URL of the form`,
		"did you mean database.schema?", "(variable OUTBOX_BROKER_URL)", "relay.window \"0\" ("+file+":2)",
		"database.listen_url \"sqlite:x\" (variable OUTBOX_DATABASE_LISTEN_URL)", "(flag --log-level)", "at most 32 bytes")
	if strings.Contains(got.stderr, "heim") {
		t.Errorf("a password is shown:\n%s", got.stderr)
	}
}

func TestURLsAreCheckedByTheirKind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ database, broker, want string }{
		{"sqlite:", "stdout:", "names no file"},
		{"sqlite://shop.db", "stdout:", "two slashes"},
		{"sqlite::memory:", "stdout:", "is in memory"},
		{"sqlite:/does/not/exist.db", "stdout:", "names a file that does not exist"},
		{"shop.db", "stdout:", "is not a URL: begin it with"},
		{"postgres://h/d?sslmode=perhaps", "stdout:", "sslmode is invalid"},
		{"postgres:shop", "stdout:", "is not a URL of the form"},
		{"postgres://h/d", "stdout:x", "write stdout: alone"},
		{"postgres://h/d", "kafka://h", "has the unknown scheme kafka"},
		{"postgres://h/d", "nats://", "an address without a host"},
		{"postgres://h/d", "amqp://h:port/", "the URL is not one of the form"},
		{"postgres://h/d", "stomp://h:port/", "broker.url"},
		{"postgres://h/d", "https://u:geheim@/x", "broker.url"},
	} {
		got := call(t, nil, "", "relay", "--database-url", tc.database, "--broker-url", tc.broker)
		t.Run(tc.database+" "+tc.broker, func(t *testing.T) { got.want(t, exitUsage, "the configuration is wrong", tc.want) })
	}
	call(t, nil, "", "relay", "--database-url", "postgres://h/d", "--broker-url", "amqp://h", "--broker-exchange", "amq.direct").
		want(t, exitUsage, "broker.exchange", "reserved")
	call(t, nil, "", "relay", "--database-url", "postgres://h/d", "--broker-url", "nats://h", "--broker-stream", "a.b", "--broker-subject-prefix", "c").
		want(t, exitUsage, "broker.stream", "broker.subject_prefix")
	call(t, nil, "", "relay", "--database-url", "postgres://h/d", "--broker-url", "stomp://h", "--broker-destination", "topic", "--broker-heartbeat", "1ms").
		want(t, exitUsage, "2 problems", "broker.destination \"topic\"", "broker.heartbeat \"1ms\"")
	hook := call(t, nil, "", "relay", "--database-url", "postgres://h/d", "--broker-url", "https://h/x?token=geheim", "--broker-secrets", "geheim",
		"--broker-request-headers", "Content-Type: geheim")
	hook.want(t, exitUsage, "2 problems", "broker.secrets \"xxxxx\"", "broker.request_headers \"xxxxx\"")
	if strings.Contains(hook.stderr, "geheim") {
		t.Errorf("a secret is shown:\n%s", hook.stderr)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "version").want(t, 0, "outbox ", "commit ", "go1.")
}

func TestMigrateSQLite(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	call(t, nil, "", "migrate", "--database-url", "sqlite:"+path).want(t, 0, "up to date")
	if n := sqliteCount(t, path); n != 0 {
		t.Errorf("%d messages in a new outbox", n)
	}
}

func TestMigratePostgresUnderConfiguredNames(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	env := map[string]string{"OUTBOX_DATABASE_URL": url, "OUTBOX_DATABASE_SCHEMA": `Mess"aging`, "OUTBOX_DATABASE_TABLE_PREFIX": "ob_"}
	call(t, env, "", "emit", "--topic", "a", "--data", "1").want(t, exitFailure, "run `outbox migrate` first")
	for range 2 {
		call(t, env, "", "migrate").want(t, 0, "up to date")
	}
	call(t, env, "", "emit", "--topic", "a", "--data", "1").want(t, 0)
	if rows := pg.Exec(url, `SELECT topic FROM "Mess""aging".ob_message`); len(rows) != 1 {
		t.Errorf("got %v, want one message", rows)
	}
}

func TestPrintedMigrationsWorkByPsql(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t).NewDatabase(t)
	printed := call(t, nil, "", "migrate", "--print", "--dialect", "postgres", "--database-schema", "messaging", "--database-table-prefix", "ob_")
	printed.want(t, 0, "CREATE TABLE")
	psql := exec.CommandContext(t.Context(), "psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", url)
	psql.Stdin = strings.NewReader(printed.stdout)
	if out, err := psql.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	env := map[string]string{"OUTBOX_DATABASE_URL": url, "OUTBOX_DATABASE_SCHEMA": "messaging", "OUTBOX_DATABASE_TABLE_PREFIX": "ob_"}
	call(t, env, "", "emit", "--topic", "a", "--data", "1").want(t, 0)
	call(t, env, "", "migrate").want(t, 0, "up to date")
}

func TestPrintedMigrationsWorkOnSQLite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop.db")
	printed := call(t, map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + path}, "", "migrate", "--print")
	printed.want(t, 0, "CREATE TABLE")
	if _, err := os.Stat(path); err == nil {
		t.Error("--print has made the file")
	}
	sqliteExec(t, path, "PRAGMA journal_mode = WAL;\n"+printed.stdout)
	call(t, nil, "", "emit", "--database-url", "sqlite:"+path, "--topic", "a", "--data", "1").want(t, 0)
	call(t, nil, "", "migrate", "--database-url", "sqlite:"+path).want(t, 0, "up to date")
	if n := sqliteCount(t, path); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

func TestEmitTakesThePayloadFromEverywhere(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	file := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(file, []byte("\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	const id = "0190a5a0-0000-7000-8000-000000000001"
	emit := func(stdin string, args ...string) answer {
		return call(t, map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + path}, stdin, append([]string{"emit", "--topic", "user.created"}, args...)...)
	}
	first := emit("", "--data", `{"id": 1}`, "--key", "k", "--tenant", "t", "--type", "User", "--header", "a=b=c", "--header", "d=", "--id", id)
	first.want(t, 0)
	if first.stdout != id+"\n" {
		t.Errorf("printed %q, want the id", first.stdout)
	}
	emit("", "--file", file, "--content-type", "application/octet-stream").want(t, 0)
	last := emit(`[1]`)
	last.want(t, 0)
	if _, err := uuid.Parse(strings.TrimSpace(last.stdout)); err != nil {
		t.Errorf("printed %q: %v", last.stdout, err)
	}
	lines := relayToStdout(t, path, 3)
	for i, want := range []map[string]any{
		{"id": id, "key": "k", "tenant": "t", "type": "User", "headers": map[string]any{"a": "b=c", "d": ""}, "payload": map[string]any{"id": 1.0}},
		{"content_type": "application/octet-stream", "payload_base64": "AP8="},
		{"content_type": "application/json", "payload": []any{1.0}},
	} {
		for name, value := range want {
			if got, _ := json.Marshal(lines[i][name]); string(got) != string(mustJSON(t, value)) {
				t.Errorf("message %d: %s is %s, want %s", i, name, got, mustJSON(t, value))
			}
		}
	}
}

func TestEmitReportsAllThatIsWrongWithTheMessage(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	call(t, nil, "{", "emit", "--database-url", "sqlite:"+path, "--topic", "a..b", "--key", "a\x01", "--id", "7",
		"--header", "x", "--header", "a b=1", "--type", strings.Repeat("t", 600)).
		want(t, exitUsage, "7 problems", "standard input: is not valid JSON", `--topic "a..b"`, "--key", `--id "7"`, `--header "x"`, `--header "a b"`, "--type")
	if n := sqliteCount(t, path); n != 0 {
		t.Errorf("%d messages were emitted", n)
	}
}

func TestDemoCommand(t *testing.T) {
	t.Parallel()
	got := call(t, nil, "", "demo", "--messages", "200", "--keys", "5", "--json")
	got.want(t, 0)
	var result map[string]float64
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil {
		t.Fatalf("%v: %s", err, got.stdout)
	}
	if result["committed"] != 200 || result["delivered"] != 200 || result["lost"]+result["phantom"]+result["out_of_order"] != 0 {
		t.Errorf("got %s", got.stdout)
	}
	call(t, nil, "", "demo", "--messages", "100").want(t, 0, "SQLite to JetStream", "latency, 99 %")
	// What is known is told also when the time is over.
	call(t, nil, "", "demo", "--messages", "1000000", "--timeout", "1s", "--json").want(t, exitFailure, "the time is over", `"committed":`)
}

func TestDemoFailsIfThePromiseIsNotKept(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{true, false} {
		f := demoFlags{json: asJSON}
		var out bytes.Buffer
		if err := f.report(&out, "title", &demo.Result{Committed: 1, Duplicates: 1}); err != nil || out.Len() == 0 {
			t.Errorf("a duplicate is no failure: %v, %s", err, &out)
		}
		for _, bad := range []demo.Result{{Lost: 1}, {Phantom: 1}, {OutOfOrder: 1}} {
			out.Reset()
			if err := f.report(&out, "title", &bad); err == nil || out.Len() == 0 {
				t.Errorf("%+v: got %v, want an error, and %q to be the result", bad, err, &out)
			}
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
