package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// desk calls the program on one outbox.
type desk struct {
	t   *testing.T
	env map[string]string
	sql func(text string) // with the tables' names as {dead}
}

// sqliteDesk has an outbox of its own in SQLite.
func sqliteDesk(t *testing.T) *desk {
	path := sqliteFile(t)
	return &desk{t, map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + path, "OUTBOX_BROKER_URL": "stdout:"}, func(text string) {
		t.Helper()
		sqliteExec(t, path, strings.NewReplacer("{dead}", "outbox_dead", "{message}", "outbox_message", "{sent}", "outbox_sent",
			"{old}", "(unixepoch() - 40 * 86400) * 1000000").Replace(text))
	}}
}

// postgresDesk has one in PostgreSQL.
func postgresDesk(t *testing.T) *desk {
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	d := &desk{t, map[string]string{"OUTBOX_DATABASE_URL": url, "OUTBOX_BROKER_URL": "stdout:"}, func(text string) {
		t.Helper()
		pg.Exec(url, strings.NewReplacer("{dead}", "outbox.dead", "{message}", "outbox.message", "{sent}", "outbox.sent",
			"{old}", "now() - interval '40 days'").Replace(text))
	}}
	d.call("migrate").want(t, 0)
	return d
}

// eachDatabase runs a test on all of them.
func eachDatabase(t *testing.T, test func(t *testing.T, d *desk)) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *desk{"SQLite": sqliteDesk, "PostgreSQL": postgresDesk} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func (d *desk) call(args ...string) answer {
	d.t.Helper()
	return call(d.t, d.env, "", args...)
}

// emit emits a message and returns its id.
func (d *desk) emit(args ...string) string {
	d.t.Helper()
	got := d.call(append([]string{"emit", "--data", `{"n":1}`}, args...)...)
	got.want(d.t, 0)
	return strings.TrimSpace(got.stdout)
}

// emitDead emits a message that is a dead letter at once, for it has expired.
func (d *desk) emitDead(args ...string) string {
	d.t.Helper()
	id := d.emit(append([]string{"--expires-in", "1ms"}, args...)...)
	await(d.t, "the message to expire", func() bool {
		d.call("relay", "--once").want(d.t, 0)
		return d.call("dead", "show", id).code == 0
	})
	return id
}

// wantPrinted fails the test unless the command says just that on standard output.
func (d *desk) wantPrinted(want string, args ...string) {
	d.t.Helper()
	got := d.call(args...)
	got.want(d.t, 0)
	if got.stdout != want {
		d.t.Errorf("%v printed %q, want %q", args, got.stdout, want)
	}
}

// lines returns lines of JSON.
func lines(t *testing.T, text string) (objects []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		objects = append(objects, o)
	}
	return objects
}

func TestDeadLettersAreListedShownExportedRedrivenAndDiscarded(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		order := d.emitDead("--topic", "order.placed", "--key", "k1", "--tenant", "acme", "--header", "a=b\x7fc"[:3])
		user := d.emitDead("--topic", "user.created", "--content-type", "text/plain")
		list := d.call("dead", "list")
		list.want(t, 0, "REASON", order, "order.placed", "k1", "acme", "expired", user)
		if strings.Index(list.stdout, order) > strings.Index(list.stdout, user) {
			t.Errorf("the oldest is not the first:\n%s", list.stdout)
		}
		for _, filter := range [][]string{{order}, {"--topic", "order.#"}, {"--tenant", "acme"}, {"--key", "k1"}, {"--tenant=acme", "--reason=expired", "--route="}} {
			got := lines(t, d.call(append([]string{"dead", "list", "--json"}, filter...)...).stdout)
			if len(got) != 1 || got[0]["id"] != order || got[0]["reason"] != "expired" || got[0]["state"] != "dead" {
				t.Errorf("%v: got %v", filter, got)
			}
		}
		for _, none := range [][]string{{"--reason", "exhausted"}, {"--older-than", "1h"}, {"--route", "audit"}} {
			d.wantPrinted("", append([]string{"dead", "list", "--json"}, none...)...)
		}
		d.call("dead", "list", "--limit", "1").want(t, 0, "there are more")
		d.call("dead", "show", order).want(t, 0, "state:", "dead", "header a:", "b", "reason:", "expired", `{"n":1}`)
		d.call("dead", "show", order, "0190a5a0-0000-7000-8000-000000000001").
			want(t, exitFailure, "order.placed", "there is no message 0190a5a0-0000-7000-8000-000000000001")

		exported := lines(t, d.call("dead", "export", "--all").stdout)
		if len(exported) != 2 || exported[0]["payload_encoding"] != "json" || exported[1]["payload"] != `{"n":1}` {
			t.Errorf("exported %v", exported)
		}

		d.wantPrinted("1 dead letter redriven\n", "dead", "redrive", order)
		d.call("dead", "redrive", order).want(t, exitFailure, "0 dead letters redriven", "there are no such dead letters")
		if sent := lines(t, d.call("relay", "--once").stdout); len(sent) != 1 || sent[0]["id"] != order {
			t.Errorf("sent %v, want what was redriven", sent)
		}
		d.wantPrinted(`{"discarded":1}`+"\n", "dead", "discard", "--topic", "user.*", "--json")
		d.wantPrinted("0 dead letters discarded\n", "dead", "discard", "--all")
		if text := d.call("dead", "list", "--json").stdout; text != "" {
			t.Errorf("still dead: %s", text)
		}
	})
}

func TestNothingIsChangedWithoutACondition(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	id := d.emitDead("--topic", "a")
	for _, tc := range []struct{ args, want string }{
		{"dead redrive", "--all: is not given, nor any id or other condition: name ids, give a condition such as --topic, or --all"},
		{"dead discard", "--all: is not given"},
		{"dead export", "--all: is not given"},
		{"messages retry", "--all: is not given"},
		{"dead discard --tenant=", "--tenant: is empty, and no other condition is given"},
		{"dead redrive --key=", "--key: is empty"},
		{"dead discard --route=", "--route: is empty"},
		{"messages retry --route= --key= --tenant=", "--tenant, --key, --route: is empty"},
		{"dead discard --all --tenant=", "--all: is given beside"},
		{"dead redrive --all --topic a", "--all: is given beside ids or other conditions"},
		{"dead discard --all " + id, "--all: is given beside"},
		{"dead redrive 7 --topic a..b --reason tired --older-than soon --route a/b", "5 problems"},
		{"dead list --limit -1", `--limit "-1": must be 0 or more`},
		{"messages list --state lost", "must be pending, scheduled, dead or sent"},
		{"messages list --state sent --waiting", "is of use for pending messages alone"},
		{"messages cancel 7 --timeout 0s", "2 problems"},
		{"messages cancel", "accepts 1 arg"},
		{"messages show", "requires at least 1 arg"},
		{"pause", "--all: is not given, nor --topic or --key: give one of them, or --all"},
		{"pause --all --topic a", "--all: is given beside"},
		{"pause --tenant t", "is given without --key"},
		{"resume --topic a..b", `--topic "a..b": has an empty word`},
		{"resume --topic=", "--topic: is empty"},
		{"stats --watch 1ms", "must be at least 1s"},
		{"relay --limit 3", "is of use with --once alone"},
		{"relay --once --relay-rates a=1/s --relay-listen :0", "2 problems"},
		{"relay --once --relay-listen :0", "--relay-listen: is given with --once, which does not heed it"},
		{"relay --once --limit 0", `--limit "0": must be 1 to 10000`},
	} {
		d.call(strings.Fields(tc.args)...).want(t, exitUsage, tc.want)
	}
	if got := d.call("dead", "show", id); got.code != 0 {
		t.Errorf("the dead letter is gone: %s", got.stderr)
	}
}

func TestMessagesInEveryState(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_RELAY_KEEP"] = "forever"
		sent := d.emit("--topic", "a.sent")
		d.call("relay", "--once").want(t, 0)
		pending := d.emit("--topic", "a.pending", "--expires-at", "2099-01-01T00:00:00Z")
		scheduled := d.emit("--topic", "a.scheduled", "--in", "1d12h", "--expires-in", "2d")
		routed := d.emit("--topic", "a.routed", "--route", "audit", "--route", "mail")
		for state, want := range map[string]string{"sent": sent, "scheduled": scheduled, "pending": pending} {
			got := lines(t, d.call("messages", "list", "--json", "--state", state, "--topic", "a."+state).stdout)
			if len(got) != 1 || got[0]["id"] != want || got[0]["state"] != state {
				t.Errorf("%s: got %v", state, got)
			}
			d.call("messages", "list", "--state", state).want(t, 0, want)
		}
		shown := lines(t, d.call("messages", "show", "--json", strings.ToUpper(routed)).stdout)
		if len(shown) != 2 || shown[0]["route"] != "audit" || shown[1]["route"] != "mail" {
			t.Errorf("got %v, want a copy for each route", shown)
		}
		at, err := time.Parse(time.RFC3339, fmt.Sprint(lines(t, d.call("messages", "show", "--json", scheduled).stdout)[0]["deliver_at"]))
		if in := time.Until(at); err != nil || in < 35*time.Hour || in > 36*time.Hour {
			t.Errorf("due in %v, %v, want a day and a half", in, err)
		}
		if got := lines(t, d.call("messages", "list", "--json", "--route", "mail").stdout); len(got) != 1 {
			t.Errorf("on the route: %v", got)
		}
	})
}

func TestEmitChecksTimesAndRoutes(t *testing.T) {
	t.Parallel()
	sqliteDesk(t).call("emit", "--topic", "a", "--data", "1", "--deliver-at", "tomorrow", "--expires-at", "2099-01-01T00:00:00Z", "--expires-in", "1h", "--route", "a b").
		want(t, exitUsage, "3 problems", `--deliver-at "tomorrow": is not a time`, `--expires-in "1h": is given beside --expires-at`, `--route "a b"`)
	sqliteDesk(t).call("emit", "--topic", "a", "--data", "1", "--in", "1h", "--expires-in", "30m").
		want(t, exitUsage, `--expires-in "20`, `Z": is not later than --in`)
	sqliteDesk(t).call("emit", "--topic", "a", "--data", "1", "--deliver-at", "1960-01-02T00:00:00Z").
		want(t, exitUsage, `--deliver-at "1960-01-02T00:00:00Z": must be between`)
	sqliteDesk(t).call("emit", "--topic", "a", "--data", "1", "--deliver-at", "2099-01-02T00:00:00Z", "--expires-at", "2099-01-01T00:00:00Z").
		want(t, exitUsage, `--expires-at "2099-01-01T00:00:00Z": is not later than --deliver-at`)
}

func TestCancelSaysWhetherItWasInTime(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_RELAY_KEEP"] = "1h"
		for _, args := range [][]string{{"--in", "1h"}, {}, {"--route", "a", "--route", "b"}} {
			id := d.emit(append([]string{"--topic", "a"}, args...)...)
			d.wantPrinted("cancelled\n", "messages", "cancel", id)
			d.call("messages", "show", id).want(t, exitFailure, "there is no message")
			d.call("messages", "cancel", id).want(t, exitFailure, "there is no message "+id)
		}
		sent := d.emit("--topic", "a")
		d.call("relay", "--once").want(t, 0)
		if got := d.call("messages", "cancel", sent); got.code != exitFailure || got.stdout != "too late\n" {
			t.Errorf("got %d, %q", got.code, got.stdout)
		}
		d.call("messages", "cancel", d.emitDead("--topic", "a")).want(t, exitFailure, "is a dead letter", "outbox dead discard")
	})
}

func TestRetryMakesWaitingMessagesDue(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		id := d.emit("--topic", "a")
		d.emit("--topic", "b")
		later := map[bool]string{true: "(unixepoch() + 5400) * 1000000", false: "now() + interval '90 minutes'"}[strings.HasPrefix(d.env["OUTBOX_DATABASE_URL"], "sqlite")]
		d.sql(`UPDATE {message} SET attempts = 3, last_error = 'no', retry_at = ` + later)
		d.call("messages", "list", "--waiting").want(t, 0, id, "in 1h")
		d.wantPrinted("1 message retried\n", "messages", "retry", id)
		if got := lines(t, d.call("messages", "list", "--waiting", "--json").stdout); len(got) != 1 || got[0]["topic"] != "b" || got[0]["attempts"] != 3.0 {
			t.Errorf("waiting: %v", got)
		}
		if sent := lines(t, d.call("relay", "--once").stdout); len(sent) != 1 || sent[0]["id"] != id {
			t.Errorf("sent %v, want what was retried", sent)
		}
	})
}

func TestPausedMessagesWaitUntilTheyAreResumed(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.emit("--topic", "mail.welcome")
		d.emit("--topic", "order.placed", "--key", "7", "--tenant", "acme")
		d.wantPrinted("paused: topic mail.#\n", "pause", "--topic", "mail.#")
		d.wantPrinted("was paused before: topic mail.#\n", "pause", "--topic", "mail.#")
		d.wantPrinted("paused: tenant acme, key 7\n", "pause", "--key", "7", "--tenant", "acme")
		d.wantPrinted("paused: all messages\n", "pause", "--all")
		d.call("stats").want(t, 0, "paused: all messages", "paused: topic mail.#", "paused: tenant acme, key 7")
		d.call("resume", "--topic", "mail.*").want(t, exitFailure, "there was no pause of topic mail.*")
		d.call("resume", "--all").want(t, 0, "resumed: all messages", "still paused: topic mail.#", "still paused: tenant acme, key 7")
		d.wantPrinted("", "relay", "--once")
		d.wantPrinted("resumed: topic mail.#\n", "resume", "--topic", "mail.#")
		if sent := lines(t, d.call("relay", "--once").stdout); len(sent) != 1 || sent[0]["topic"] != "mail.welcome" {
			t.Errorf("sent %v", sent)
		}
	})
}

// TestListSaysWhatMessagesWaitFor: and nothing of those that a relay may have.
func TestListSaysWhatMessagesWaitFor(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		sqlite := strings.HasPrefix(d.env["OUTBOX_DATABASE_URL"], "sqlite")
		d.call("messages", "list").want(t, 0, "outbox: none\n")
		for _, args := range []string{"--topic refused --key k", "--topic b --key k", "--topic c --key k --tenant t", "--topic d --key k --route r",
			"--topic held.e --key x", "--topic f --key x", "--topic g"} {
			d.emit(strings.Fields(args)...)
		}
		d.sql(`UPDATE {message} SET attempts = 1, retry_at = ` +
			map[bool]string{true: "(unixepoch() + 5400) * 1000000", false: "now() + interval '90 minutes'"}[sqlite] + ` WHERE topic = 'refused'`)
		d.call("pause", "--topic", "held.#").want(t, 0)
		d.call("pause", "--key", "k", "--tenant", "t").want(t, 0)
		var got []string
		for line := range strings.Lines(d.call("messages", "list").stdout) {
			cells := regexp.MustCompile(`  +`).Split(strings.TrimSpace(line), -1)
			got = append(got, cells[1]+" "+strings.TrimRight(cells[7], "0123456789hms."))
		}
		want := "TOPIC NEXT, refused in , b behind, c paused, d -, held.e paused, f behind, g -"
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	})
}

func TestStatsCount(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.wantPrinted("pending                        0\n  waiting for another attempt  0\n  blocked                      0\nscheduled                      0\n"+
			"dead                           0\n  parked keys                  0\nsent and kept                  0\nno relay is alive\n", "stats")
		d.emitDead("--topic", "a")
		d.emit("--topic", "a", "--route", "audit")
		d.emit("--topic", "a")
		d.emit("--topic", "a", "--in", "1h")
		d.call("pause", "--key", "k").want(t, 0)
		d.call("stats").want(t, 0, "on route audit", "oldest", "paused: key k", "no relay is alive",
			"warning: no relay drains the route audit: run one")
		p := start(t, d.env, "relay", "--relay-route", "audit", "--broker-url", closedPort(t))
		await(t, "a relay of the route", func() bool { return !strings.Contains(d.call("stats").stdout, "warning") })
		p.stop()
		st := lines(t, d.call("stats", "--json").stdout)[0]
		for name, want := range map[string]float64{"pending": 2, "waiting": 0, "blocked": 0, "scheduled": 1, "dead": 1, "parked_keys": 0} {
			if st[name] != want {
				t.Errorf("%s is %v, want %v", name, st[name], want)
			}
		}
		if age, _ := st["oldest_seconds"].(float64); age <= 0 {
			t.Errorf("the oldest is %v s old", st["oldest_seconds"])
		}
		text, _ := json.Marshal([]any{st["routes"].([]any)[1].(map[string]any)["route"], st["pauses"], st["relays"]})
		if want := `["audit",[{"key":"k","tenant":"","topic":""}],[]]`; string(text) != want {
			t.Errorf("got %s, want %s", text, want)
		}
	})
}

func TestPurgeDeletesOldHistory(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_RELAY_KEEP"] = "forever"
		for range 3 {
			d.emit("--topic", "old")
		}
		d.call("relay", "--once").want(t, 0)
		d.sql(`UPDATE {sent} SET sent_at = {old}`)
		d.emit("--topic", "new")
		d.call("relay", "--once").want(t, 0)
		d.emit("--topic", "unsent")
		d.sql(`UPDATE {message} SET created_at = {old}`)
		d.wantPrinted("sent: 3 messages older than 30d would be deleted\n", "purge", "--older-than", "30d", "--dry-run", "--sent")
		d.wantPrinted("inbox: 0 rows older than 30d deleted\n", "purge", "--older-than", "30d", "--inbox")
		d.wantPrinted(`{"inbox":0,"sent":3,"dry_run":false}`+"\n", "purge", "--older-than", "30d", "--json", "--chunk", "2")
		for state, topic := range map[string]string{"sent": "new", "pending": "unsent"} {
			if got := lines(t, d.call("messages", "list", "--json", "--state", state).stdout); len(got) != 1 || got[0]["topic"] != topic {
				t.Errorf("%s is left: %v", state, got)
			}
		}
	})
}

func TestRelayOnceSendsWhatIsDueAndEnds(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.wantPrinted("", "relay", "--once")
		for i := range 5 {
			d.emit("--topic", "order.placed", "--key", fmt.Sprint(i%2), "--header", fmt.Sprintf("n=%d", i))
		}
		d.emit("--topic", "order.placed", "--in", "1h")
		due := d.emit("--topic", "due", "--in", "1ms")
		n := func(sent []map[string]any) (text string) {
			for _, s := range sent {
				text += fmt.Sprint(s["headers"].(map[string]any)["n"])
			}
			return text
		}
		if got := n(lines(t, d.call("relay", "--once", "--limit", "3").stdout)); got != "012" {
			t.Errorf("sent %s, want the first three", got)
		}
		d.env["OUTBOX_RELAY_RENAME"] = "order.#=shop.{topic}"
		rest := lines(t, d.call("relay", "--once").stdout)
		if len(rest) != 3 || rest[0]["topic"] != "shop.order.placed" || n(rest[:2]) != "34" || rest[2]["id"] != due {
			t.Errorf("sent %v, want the rest under another topic", rest)
		}
		d.wantPrinted("", "relay", "--once")
	})
}

func TestRelayOnceFailsIfAMessageIsNotSent(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	id := d.emit("--topic", "a")
	d.env["OUTBOX_BROKER_URL"] = closedPort(t)
	d.call("relay", "--once").want(t, exitFailure, "1 message was not sent, the last one for ", "refused")
	d.env["OUTBOX_BROKER_URL"] = "stdout:"
	if sent := lines(t, d.call("relay", "--once").stdout); len(sent) != 1 || sent[0]["id"] != id {
		t.Errorf("sent %v", sent)
	}
	empty := filepath.Join(t.TempDir(), "empty.db")
	sqliteExec(t, empty, "CREATE TABLE x (y)")
	d.env["OUTBOX_DATABASE_URL"] = "sqlite:" + empty
	d.call("relay", "--once").want(t, exitFailure, "is missing", "outbox migrate")
}
