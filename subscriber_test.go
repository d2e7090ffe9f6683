package outbox

import (
	"strings"
	"testing"
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
	if err := (&Subscription{Queue: "q", Prefetch: 1}).Validate(); err == nil || !strings.Contains(err.Error(), "Topics") {
		t.Errorf("no topics: %v", err)
	}
}
