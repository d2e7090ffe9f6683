package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox/bench/internal/report"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/internal/testenv"
)

// idle measures a relay that has nothing to do, on a database server that counts
// statements.
func (b *bed) idle(ctx context.Context, t *testing.T, s *report.Section, m *report.Measurement) error {
	pg := testenv.StartPostgres(t, &testenv.PostgresOptions{Settings: map[string]string{"shared_preload_libraries": "pg_stat_statements"}})
	pg.Exec(pg.URL(), "CREATE EXTENSION pg_stat_statements")
	own := *b
	own.pg = pg
	own.addresses = map[string]string{"DATABASE_URL": pg.NewDatabase(t), "RABBITMQ_URL": b.addresses["RABBITMQ_URL"]}
	migrate := own.command(ctx, []string{"outbox", "migrate", "--database-url", "$DATABASE_URL"})
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	for round := range own.rounds(s) {
		values, err := own.watchRelay(ctx, &s.Systems[0])
		if err != nil {
			return err
		}
		m.Runs = append(m.Runs, report.Run{Round: round, System: s.Systems[0].ID, Values: values})
	}
	return nil
}

// watchRelay runs a relay and returns what it uses when it has settled.
func (b *bed) watchRelay(ctx context.Context, s *report.System) (map[string]float64, error) {
	cmd := b.command(ctx, s.Command)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var failed error
	ended := make(chan struct{})
	go func() {
		failed = cmd.Wait()
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	used := func() time.Duration { return measure.UsageOf(cmd.Process.Pid).CPU }

	time.Sleep(b.size.settle)
	asked, before, began := b.asked(), used(), time.Now()
	time.Sleep(b.size.watch)
	took := time.Since(began).Seconds()
	values := map[string]float64{
		report.IdleCPU:     100 * (used() - before).Seconds() / took,
		report.IdleQueries: (b.asked() - asked) / took,
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("the relay has ended early: %w\n%s", err, &output)
	}
	if <-ended; failed != nil {
		return nil, fmt.Errorf("the relay: %w\n%s", failed, &output)
	}
	if values[report.IdleQueries] == 0 {
		return nil, errors.New("the relay asks the database for nothing: it does not run")
	}
	b.t.Logf("idle relay: %.2f %% of a core, %.2f queries/s", values[report.IdleCPU], values[report.IdleQueries])
	return values, nil
}

// asked returns how many statements other databases than the one that it asks in have
// been asked.
func (b *bed) asked() float64 {
	b.t.Helper()
	rows := b.pg.Exec(b.pg.URL(), `SELECT coalesce(sum(s.calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname <> current_database()`)
	n, err := strconv.ParseFloat(rows[0][0], 64)
	must(b.t, err)
	return n
}
