package outbox

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSettlementValidateTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := &Failure{Attempts: 1}
	plain, dead := &Subscription{}, &Subscription{DeadLetters: true}
	for _, test := range []struct {
		s    Settlement
		sub  *Subscription
		want string
	}{
		{Settlement{}, plain, ""},
		{Settlement{Outcome: Requeue}, dead, ""},
		{Settlement{Outcome: Retry, Failure: f, Delay: 24 * time.Hour}, plain, ""},
		{Settlement{Outcome: DeadLetter, Failure: f}, plain, ""},
		{Settlement{Outcome: Retry, Failure: f, Delay: -1}, plain, "Delay is -1ns"},
		{Settlement{Outcome: Retry, Failure: f, Delay: 25 * time.Hour}, plain, "Delay is 25h"},
		{Settlement{Outcome: Retry}, plain, "Failure is nil"},
		{Settlement{Outcome: DeadLetter}, plain, "Failure is nil"},
		{Settlement{Outcome: DeadLetter, Failure: f}, dead, "nothing else"},
		{Settlement{Outcome: 4}, plain, "Outcome is 4"},
		{Settlement{Outcome: -1}, plain, "Outcome is -1"},
	} {
		err := test.s.Validate(test.sub)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: got %v, want %q", test.s, err, test.want)
		}
	}
}

func TestSubscriptionValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	good := Subscription{Queue: "billing.eu", Topics: []string{"user.*", "#"}, Prefetch: 1}
	if err := good.Validate(); err != nil {
		t.Errorf("a good subscription: %v", err)
	}
	for _, queue := range []string{"", "a b", "a\tb", "a\x00b", "\xff", strings.Repeat("q", MaxQueue+1)} {
		bad := Subscription{Queue: queue, Topics: []string{"a..b", "x>"}, Prefetch: 0}
		err := bad.Validate()
		if err == nil {
			t.Errorf("queue %q: no error", queue)
			continue
		}
		for _, field := range []string{"Queue", "Topics[0]", "Topics[1]", "Prefetch"} {
			if !strings.Contains(err.Error(), field) {
				t.Errorf("queue %q: %q does not name %s", queue, err, field)
			}
		}
	}
	for field, bad := range map[string]Subscription{
		"Topics":         {Queue: "q", Prefetch: 1},
		"RetryDelays[1]": {Queue: "q", Prefetch: 1, Topics: []string{"#"}, RetryDelays: []time.Duration{time.Second, 0}},
		"17 delays":      {Queue: "q", Prefetch: 1, Topics: []string{"#"}, RetryDelays: slices.Repeat([]time.Duration{time.Second}, 17)},
		"InOrder":        {Queue: "q", Prefetch: 1, InOrder: true, DeadLetters: true},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%+v: got %v, want an error that names %s", bad, err, field)
		}
	}
	if err := (&Subscription{Queue: "q", Prefetch: 1, DeadLetters: true}).Validate(); err != nil {
		t.Errorf("dead letters without topics: %v", err)
	}
}
