package bench

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestSnapshotIsHeldUntilItIsReleased(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "holder"
	config.RuntimeParams["idle_in_transaction_session_timeout"] = "1" // ms
	release, err := holdSnapshot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	const held = `SELECT state, backend_xmin IS NOT NULL FROM pg_stat_activity WHERE application_name = 'holder' AND datname = current_database()`
	if got := fmt.Sprint(pg.Exec(url, held)); got != "[[idle in transaction t]]" {
		t.Errorf("the session is %s", got)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}

func TestSnapshotThatWasNotHeldIsReported(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["application_name"] = "killed"
	release, err := holdSnapshot(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	pg.Exec(url, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'killed' AND datname = current_database()`)
	if err := release(); err == nil || !strings.Contains(err.Error(), "was not held") {
		t.Errorf("got %v, want that the snapshot was not held", err)
	}
}
