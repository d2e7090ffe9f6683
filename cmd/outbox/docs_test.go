package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/outbox-go/outbox/internal/testenv"
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

// TestDocumentedRightsAreEnough runs all that a relay and its operator do as a role
// that has the rights which docs/operations.md gives it.
func TestDocumentedRightsAreEnough(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	owner := &desk{t, map[string]string{"OUTBOX_DATABASE_URL": url}, nil}
	owner.call("migrate").want(t, 0)
	role := fmt.Sprintf("relay_%d", time.Now().UnixNano())
	pg.Exec(url, `CREATE ROLE `+role+` LOGIN`)
	t.Cleanup(func() { pg.Exec(url, `DROP OWNED BY `+role+`; DROP ROLE `+role) })
	grants := strings.ReplaceAll(blocks(t, "docs/operations.md", "sql")[0], " TO relay;", " TO "+role+";")
	pg.Exec(url, grants)
	d := &desk{t, map[string]string{
		"OUTBOX_DATABASE_URL": strings.Replace(url, "//postgres@", "//"+role+"@", 1), "OUTBOX_BROKER_URL": "stdout:", "OUTBOX_RELAY_KEEP": "1s",
	}, nil}
	if d.env["OUTBOX_DATABASE_URL"] == url {
		t.Fatalf("the URL %s names another role", url)
	}
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
