package wire

import (
	"path/filepath"
	"testing"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestOutboxesShareTheirConnectionsUntilTheLastIsClosed closes one after another.
func TestOutboxesShareTheirConnectionsUntilTheLastIsClosed(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"SQLite": "sqlite:" + filepath.Join(t.TempDir(), "shop.db"), "PostgreSQL": testenv.Postgres(t).NewDatabase(t),
	} {
		c := config.Database{URL: url, Schema: "outbox"}
		other := c
		other.TablePrefix = "b_"
		stores, err := OpenStores(t.Context(), []config.Database{c, other}, 2, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range stores {
			if err := s.Migrate(t.Context()); err != nil {
				t.Errorf("%s: outbox %d, when those before it are closed: %v", name, i, err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("%s: close outbox %d: %v", name, i, err)
			}
		}
		if err := stores[1].Check(t.Context()); err == nil {
			t.Errorf("%s: the connections are open after the last is closed", name)
		}
	}
}
