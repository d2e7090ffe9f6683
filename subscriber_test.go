package outbox

import (
	"slices"
	"strings"
	"testing"
	"time"
)

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
