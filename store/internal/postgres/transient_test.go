package postgres

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// stateError is like the errors of both drivers.
type stateError struct{ state, text string }

func (e stateError) Error() string    { return e.text }
func (e stateError) SQLState() string { return e.state }

func TestTransientGoesByTheState(t *testing.T) {
	t.Parallel()
	const passing = "40001 40P01 40003 55P03 25006 57P01 57P02 57P03 57P05 08000 08001 08003 08004 08006 08P01 53000 53100 53200 53300 53400"
	const others = "40002 23505 23503 23514 42601 42P01 42501 22001 22021 25P02 25P03 28P01 3D000 0A000 54000 55000 57014 58030 P0001 XX000 XX001"
	for state := range strings.FieldsSeq(passing) {
		if !Transient(fmt.Errorf("wrapped: %w", stateError{state: state})) {
			t.Errorf("%s does not count as passing", state)
		}
	}
	for state := range strings.FieldsSeq(others) {
		if Transient(Lost(fmt.Errorf("wrapped: %w", stateError{state: state}))) {
			t.Errorf("%s counts as passing", state)
		}
	}
	timeout := stateError{"57014", "canceling statement due to statement timeout"}
	if !Transient(timeout) || Transient(stateError{"57014", "canceling statement due to user request"}) {
		t.Error("of the cancelled statements, those that took too long pass")
	}
}

func TestTransientKnowsConnectionsByTheirMark(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, context.DeadlineExceeded,
		&net.OpError{Op: "dial", Err: errors.New("no route")}, &net.DNSError{Err: "no such host"},
	} {
		wrapped := fmt.Errorf("wrapped: %w", err)
		if Transient(wrapped) {
			t.Errorf("%v counts as the database's without a mark", err)
		}
		marked := fmt.Errorf("again: %w", Lost(wrapped))
		if !Transient(marked) || !errors.Is(marked, err) {
			t.Errorf("%v with a mark does not count as passing", err)
		}
	}
	if !Transient(driver.ErrBadConn) {
		t.Error("no other than a database driver returns driver.ErrBadConn")
	}
	for _, err := range []error{nil, errors.New("x"), Lost(errors.New("closed pool")), Lost(context.Canceled), Lost(errors.Join(context.Canceled, io.EOF))} {
		if Transient(err) {
			t.Errorf("%v counts as passing", err)
		}
	}
}
