package outbox_test

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

func TestFailureTravelsAsHeaders(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, f := range []outbox.Failure{
		{Attempts: 3, Reason: "no such user", Handler: "user.*", Queue: "billing", FirstAt: at, LastAt: at.Add(time.Minute)},
		{Attempts: 1},
		{},
	} {
		h := f.Headers()
		h["mine"] = "1"
		got := outbox.TakeFailure(h)
		if got == nil || !reflect.DeepEqual(*got, f) {
			t.Errorf("%+v came back as %+v", f, got)
		}
		if !maps.Equal(h, map[string]string{"mine": "1"}) {
			t.Errorf("headers %q are left, want the user's own alone", h)
		}
	}
}

func TestNoFailureInOtherHeaders(t *testing.T) {
	t.Parallel()
	for _, h := range []map[string]string{nil, {}, {"mine": "1"}, {outbox.HeaderAttempts: "many"}} {
		if got := outbox.TakeFailure(h); got != nil {
			t.Errorf("%q has the failure %+v, want none", h, *got)
		}
	}
	if got := outbox.TakeFailure(map[string]string{outbox.HeaderAttempts: "9223372036854775807"}); got == nil || got.Attempts > 1<<20 {
		t.Errorf("got %+v, want a number of attempts that can be counted on", got)
	}
	if got := outbox.TakeFailure(map[string]string{outbox.HeaderAttempts: "-2", outbox.HeaderFailedAt: "noon"}); got == nil || *got != (outbox.Failure{}) {
		t.Errorf("got %+v, want an empty failure", got)
	}
}

func TestReasonFitsIntoAHeader(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"line one\nline two\x00": "line one line two",
		"\xff!":                  "\uFFFD!",
	} {
		f := outbox.Failure{Reason: reason}
		if got := f.Headers()[outbox.HeaderReason]; got != want {
			t.Errorf("reason %q became %q, want %q", reason, got, want)
		}
	}
	long := outbox.Failure{Reason: strings.Repeat("ä", 2000)}
	got := long.Headers()[outbox.HeaderReason]
	if len(got) > 1000 || len(got) < 990 || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
		t.Errorf("a reason of 4000 bytes became one of %d: %q", len(got), got)
	}
}
