package sqlstore

import (
	"database/sql"

	"github.com/outbox-go/outbox/store/sqlstore/internal/sqlite"
)

// sqliteBackend gives SQLite's store the views of this package.
type sqliteBackend struct{ *sqlite.Store }

func (b sqliteBackend) route(name string) backend { return sqliteBackend{b.Route(name)} }

func (b sqliteBackend) within(tx *sql.Tx) once { return b.Within(tx) }
