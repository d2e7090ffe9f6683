package scratch

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestRemoveRemovesAllSchemasThoughTheRunWasInterrupted(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	s, err := New("outbox_scratch")
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Database(t.Context(), url, 2, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	pg.Exec(url, `CREATE TABLE `+d.Schema()+`.business (n int)`)
	if _, err := s.Schemas(t.Context(), url, 2, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	const schemas = `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'outbox_scratch_%'`
	if got := pg.Exec(url, schemas); len(got) != 3 {
		t.Errorf("schemas %v, want three", got)
	}
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Remove(interrupted); err != nil {
		t.Error(err)
	}
	if got := pg.Exec(url, schemas); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
}

func TestWhatCannotBeRemovedIsNamed(t *testing.T) {
	t.Parallel()
	s, err := New("outbox_scratch")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Database(t.Context(), "postgres://me:geheim@127.0.0.1:1/d", 2, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	err = s.Remove(t.Context())
	if err == nil || !strings.Contains(err.Error(), s.Name) || strings.Contains(err.Error(), "geheim") {
		t.Errorf("got %v, want the schema's name, and no password", err)
	}
}
