package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/store"
)

// answeringStore answers a cancel, and fails when it is let go.
type answeringStore struct {
	store.Admin
	answer store.Withdrawal
}

func (s answeringStore) Withdraw(context.Context, string, string) (store.Withdrawal, error) {
	return s.answer, nil
}

func (answeringStore) LetGo(context.Context, string) error { return errors.New("the connection broke") }

func TestCancelPrintsItsAnswerWhateverFailsAfterIt(t *testing.T) {
	t.Parallel()
	for answer, want := range map[store.Withdrawal][2]string{
		store.Withdrawn: {"cancelled\n", ""}, store.TooLate: {"too late\n", "was sent, or may have been"},
		store.IsDead: {"", "is a dead letter"}, store.Absent: {"", "there is no message"}, store.Asked: {"", "not cancelled"},
	} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		err := a.cancel(t.Context(), answeringStore{answer: answer}, "0190a5a0-0000-7000-8000-000000000001", time.Millisecond)
		if out.String() != want[0] || err == nil || !strings.Contains(err.Error(), want[1]) || !strings.Contains(err.Error(), "the connection broke") {
			t.Errorf("%s: printed %q, %v, want %q and %q", answer, &out, err, want[0], want[1])
		}
	}
}
