package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// SQLSTATEs that are looked for by name.
const (
	undefinedTable        = "42P01"
	undefinedColumn       = "42703"
	invalidSchema         = "3F000"
	insufficientPrivilege = "42501"
	lockNotAvailable      = "55P03"
	uniqueViolation       = "23505"
	queryCanceled         = "57014"
	serializationFailure  = "40001"
)

// sqlState returns the SQLSTATE of an error of the server's, or "". The drivers'
// errors tell theirs in the same way.
func sqlState(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	return ""
}

// lost marks an error that has to do with the connection to the database. An error
// of a network alone does not tell whose network it was.
type lost struct{ error }

func (l lost) Unwrap() error { return l.error }

// Lost returns err marked as one of the connection to the database, if it can be
// one. It is for those who know that err comes from the database.
func Lost(err error) error {
	if isConnection(err) {
		return lost{err}
	}
	return err
}

// isConnection recognizes an error of a connection that was lost or could not be
// had, wherever it was to.
func isConnection(err error) bool {
	var ofNet net.Error
	return errors.As(err, &ofNet) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, context.DeadlineExceeded)
}

// Transient reports whether err is one of the database that passes. What the
// server says goes by its SQLSTATE; of other errors, those count that are marked
// by [Lost] or that no other than a database driver returns.
func Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if state := sqlState(err); state != "" {
		return transientState(state, err)
	}
	var ofConnection lost
	var unsent interface{ SafeToRetry() bool } // pgx's errors of a connection that it had closed before
	return errors.As(err, &ofConnection) || errors.Is(err, driver.ErrBadConn) || errors.As(err, &unsent) && unsent.SafeToRetry()
}

func transientState(state string, err error) bool {
	switch state {
	case serializationFailure, "40P01", // serialization failure, deadlock
		"40003",                            // whether the statement has completed is not known
		"55P03",                            // lock not available, or not in time
		"25006",                            // the server has become a standby
		"57P01", "57P02", "57P03", "57P05": // shut down, crashed, starting, session ended while it was idle
		return true
	case queryCanceled:
		// A statement that is cancelled because somebody asked for it has the same
		// code as one that took too long, which is most often a lock's fault. Only
		// the text tells them apart, and only in English.
		return strings.Contains(err.Error(), "statement timeout")
	}
	// Connection exceptions, and resources that are used up.
	return strings.HasPrefix(state, "08") || strings.HasPrefix(state, "53")
}
