package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"reflect"
	"slices"
	"strings"
)

// The errors of SQLite that pass, by their codes and by what it says of them:
// SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM, SQLITE_IOERR, SQLITE_FULL,
// SQLITE_CANTOPEN and SQLITE_PROTOCOL.
var (
	transientCodes = []int{5, 6, 7, 10, 13, 14, 15}
	transientWords = []string{
		"database is locked", "table is locked", "out of memory", "disk I/O error", "database or disk is full",
		"unable to open database file", "locking protocol",
	}
)

// statementError marks an error of one of the store's own statements, whatever type
// the driver gives it.
type statementError struct{ error }

func (e statementError) Unwrap() error { return e.error }

// ownError returns err marked as one of the store's own statements.
func ownError(err error) error { return statementError{err} }

// Transient reports whether err is one of the database that passes. What a handler
// says of other things does not count, in whatever words.
func (s *Store) Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, driver.ErrBadConn) || passes(err)
}

// passes looks for an error that passes among all that err wraps.
func passes(err error) bool {
	_, own := err.(statementError) //nolint:errorlint // what it wraps is looked at next
	if (own || ofDriver(err)) && transient(err) {
		return true
	}
	switch e := err.(type) { //nolint:errorlint // the same
	case interface{ Unwrap() error }:
		inner := e.Unwrap()
		return inner != nil && passes(inner)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), passes)
	}
	return false
}

// ofDriver reports whether err is itself an error of a driver's for SQLite. All known
// ones have a type of their own for it.
func ofDriver(err error) bool {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return strings.Contains(t.PkgPath(), "sqlite") && t.Name() == "Error"
}

// transient goes by the code where the driver's error tells it, else by SQLite's
// words, which all drivers repeat.
func transient(err error) bool {
	if coded, ok := err.(interface{ Code() int }); ok {
		return slices.Contains(transientCodes, coded.Code()&0xff)
	}
	return slices.ContainsFunc(transientWords, func(words string) bool { return strings.Contains(err.Error(), words) })
}
