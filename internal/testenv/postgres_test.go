package testenv_test

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestSharedPostgresGivesEachTestItsOwnDatabase(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	first, second := pg.NewDatabase(t), pg.NewDatabase(t)
	if first == second {
		t.Fatalf("two databases have the same URL %s", first)
	}
	pg.Exec(first, "CREATE TABLE message (id int)")
	got := pg.Exec(second, "SELECT count(*) FROM pg_tables WHERE tablename = 'message'")
	if got[0][0] != "0" {
		t.Error("a table of one database is seen in the other")
	}
}

func TestPostgresWritesDurablyUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	if os.Getenv("OUTBOX_TEST_POSTGRES_URL") == "" {
		pg := testenv.Postgres(t)
		if got := pg.Exec(pg.URL(), "SHOW fsync")[0][0]; got != "on" {
			t.Errorf("fsync = %q, want on", got)
		}
	}
	pg := testenv.StartPostgres(t, &testenv.PostgresOptions{Settings: map[string]string{"max_connections": "17"}})
	if got := pg.Exec(pg.URL(), "SHOW max_connections")[0][0]; got != "17" {
		t.Errorf("max_connections = %q, want 17", got)
	}
}

func TestKilledPostgresKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, nil)
	url, addr := pg.NewDatabase(t), pg.Addr()
	for _, end := range []func(){pg.Kill, pg.Stop} {
		pg.Exec(url, "CREATE TABLE IF NOT EXISTS message (id int); INSERT INTO message VALUES (1), (NULL)")
		end()
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			t.Fatal("the server still takes connections")
		}
		pg.Start()
		if pg.Addr() != addr {
			t.Errorf("address %s became %s", addr, pg.Addr())
		}
	}
	got := pg.Exec(url, "SELECT id FROM message ORDER BY id NULLS LAST")
	want := [][]string{{"1"}, {"1"}, {""}, {""}}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("rows %v, want %v", got, want)
	}
}

func TestPausedPostgresAnswersWhenResumed(t *testing.T) {
	t.Parallel()
	pg := testenv.StartPostgres(t, nil)
	pg.Pause()
	answer := make(chan [][]string, 1)
	go func() { answer <- pg.Exec(pg.URL(), "SELECT 1") }()
	select {
	case <-answer:
		t.Error("a paused server has answered")
	case <-time.After(100 * time.Millisecond): // nothing tells of an answer that does not come
	}
	pg.Resume()
	if got := <-answer; got[0][0] != "1" {
		t.Errorf("answer %v, want 1", got)
	}
}

func TestSharedPostgresIsNotKilled(t *testing.T) {
	t.Parallel()
	failed := fails(t, func(tb testing.TB) { testenv.Postgres(tb).Kill() })
	if !strings.Contains(failed, "StartPostgres") {
		t.Errorf("message %q does not name StartPostgres", failed)
	}
	pg := testenv.Postgres(t)
	pg.Exec(pg.URL(), "SELECT 1")
}
