package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"slices"
	"strings"
)

// What SQLite says of errors that pass: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM,
// SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN and SQLITE_PROTOCOL. Every driver
// repeats the words; not every one tells the code, and other packages have codes
// too.
var transientWords = []string{
	"database is locked", "table is locked", "out of memory", "disk I/O error", "database or disk is full",
	"unable to open database file", "locking protocol",
}

// Transient reports whether err is one of the database that passes.
func (s *Store) Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, driver.ErrBadConn) || slices.ContainsFunc(transientWords, func(words string) bool {
		return strings.Contains(err.Error(), words)
	})
}
