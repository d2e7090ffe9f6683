package bench

import (
	"fmt"
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
