package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.yaml.in/yaml/v3"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// blocks returns what stands in the blocks of a language in a document.
func blocks(t *testing.T, file, language string) (texts []string) {
	t.Helper()
	data, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)\n```"+language+"\n(.*?)```\n").FindAllStringSubmatch(string(data), -1) {
		texts = append(texts, m[1])
	}
	if len(texts) == 0 {
		t.Fatalf("%s has no %s", file, language)
	}
	return texts
}

// TestDocumentedFilesAreRight: the program finds nothing wrong with the files in the
// documents but the way it is called.
func TestDocumentedFilesAreRight(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"README.md", "docs/operations.md"} {
		for _, text := range blocks(t, file, "yaml") {
			var keys map[string]any
			if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
				t.Errorf("%s: %v:\n%s", file, err, text)
			}
			if _, rules := keys["groups"]; rules {
				continue
			}
			env := map[string]string{"OUTBOX_CONFIG": yamlFile(t, text), "OUTBOX_DATABASE_URL": "postgres://h/d"}
			got := call(t, env, "", "relay", "--limit", "7")
			if got.code != exitUsage || !strings.Contains(got.stderr, "the configuration is wrong: --limit") {
				t.Errorf("%s: %s\n%s", file, got.stderr, text)
			}
		}
	}
}

// roleDesk has an outbox of its own, as a role that has the rights which
// docs/operations.md gives to a relay, an emitter or a worker.
func roleDesk(t *testing.T, who string) (d *desk, url string) {
	t.Helper()
	pg := testenv.Postgres(t)
	url = pg.NewDatabase(t)
	owner := &desk{t, map[string]string{"OUTBOX_DATABASE_URL": url}, nil}
	owner.call("migrate").want(t, 0)
	role := fmt.Sprintf("%s_%d", who, time.Now().UnixNano())
	pg.Exec(url, `CREATE ROLE `+role+` LOGIN`)
	t.Cleanup(func() { pg.Exec(url, `DROP OWNED BY `+role+`; DROP ROLE `+role) })
	granted := false
	for _, block := range blocks(t, "docs/operations.md", "sql") {
		if strings.Contains(block, " TO "+who+";") {
			pg.Exec(url, strings.ReplaceAll(block, " TO "+who+";", " TO "+role+";"))
			granted = true
		}
	}
	as := strings.Replace(url, "//postgres@", "//"+role+"@", 1)
	if as == url || !granted {
		t.Fatalf("the URL %s names another role, or nothing is granted to %s", url, who)
	}
	return &desk{t, map[string]string{"OUTBOX_DATABASE_URL": as, "OUTBOX_BROKER_URL": "stdout:"}, nil}, url
}

func TestDocumentedRightsAreEnoughForAnEmitter(t *testing.T) {
	t.Parallel()
	d, url := roleDesk(t, "emitter")
	d.emit("--topic", "a")
	d.emit("--topic", "a", "--in", "1h")
	pg := testenv.Postgres(t)
	pg.Exec(d.env["OUTBOX_DATABASE_URL"], `SELECT outbox.emit('a', '{}', 'k');
		SELECT outbox.emit('a', '{}', deliver_at => now() + interval '1 hour');
		INSERT INTO outbox.message (topic, key, payload) VALUES ('a', 'k', '{}');
		INSERT INTO outbox.scheduled (topic, payload, deliver_at) VALUES ('a', '{}', now())`)
	if got := pg.Exec(url, `SELECT (SELECT count(*) FROM outbox.message), (SELECT count(*) FROM outbox.scheduled)`); fmt.Sprint(got) != "[[3 3]]" {
		t.Errorf("got %v, want three of each", got)
	}
}

func TestDocumentedRightsAreEnoughForAWorker(t *testing.T) {
	t.Parallel()
	d, _ := roleDesk(t, "worker")
	pool, err := pgxpool.New(t.Context(), d.env["OUTBOX_DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	s := pgxstore.New(pool, nil)
	for i := range 2 {
		first, err := s.Once(t.Context(), "billing", "1", func(context.Context, pgx.Tx) error { return nil })
		if err != nil || first != (i == 0) {
			t.Errorf("time %d: first is %v, %v", i, first, err)
		}
	}
	d.call("purge", "--inbox", "--older-than", "30d", "--dry-run").want(t, 0)
	await(t, "the row to be old", func() bool {
		return strings.HasPrefix(d.call("purge", "--inbox", "--older-than", "1ms").stdout, "inbox: 1 ")
	})
}

// TestDocumentedRightsAreEnough runs all that a relay and its operator do as a role
// that has the rights which docs/operations.md gives it.
func TestDocumentedRightsAreEnough(t *testing.T) {
	t.Parallel()
	d, _ := roleDesk(t, "relay")
	d.env["OUTBOX_RELAY_KEEP"] = "1s"
	d.emit("--topic", "a")
	d.emit("--topic", "a", "--in", "1ms")
	p := start(t, d.env, "relay")
	p.awaitLines(2)
	p.stop()
	p.said().want(t, 0)
	if log := p.said().stderr; strings.Contains(log, "permission denied") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the log says:\n%s", log)
	}
	d.call("dead", "redrive", d.emitDead("--topic", "a")).want(t, 0)
	d.call("dead", "discard", d.emitDead("--topic", "b")).want(t, 0)
	d.call("messages", "retry", "--all").want(t, 0)
	d.call("messages", "cancel", d.emit("--topic", "a", "--in", "1h")).want(t, 0)
	d.call("messages", "cancel", d.emit("--topic", "a")).want(t, 0)
	d.call("pause", "--all").want(t, 0)
	d.call("resume", "--all").want(t, 0)
	d.call("stats").want(t, 0)
	d.call("purge", "--sent", "--older-than", "1d").want(t, 0)
	d.call("purge", "--sent", "--older-than", "1s", "--dry-run").want(t, 0)
}
