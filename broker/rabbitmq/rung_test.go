package rabbitmq

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

func TestRungNames(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		10 * time.Second: "10s", time.Minute: "1m", 250 * time.Millisecond: "250ms", 90 * time.Second: "1m30s",
		time.Hour: "1h", time.Hour + 30*time.Second: "1h30s", 24 * time.Hour: "24h", 100 * time.Minute: "1h40m",
		time.Millisecond + 1: "2ms", 1500 * time.Millisecond: "1.5s", 10*time.Hour + 10*time.Minute: "10h10m", 20 * time.Minute: "20m",
	} {
		if got := rungOf(d).String(); got != want {
			t.Errorf("%v is named %s, want %s", d, got, want)
		}
	}
	longest := retryQueue(queueName(strings.Repeat("q", outbox.MaxQueue-4)+".dlq"), rungOf(23*time.Hour+59*time.Minute+59*time.Second+999*time.Millisecond))
	if len(longest) > maxShortString {
		t.Errorf("a name has %d bytes", len(longest))
	}
}

func TestQueueNamesAreApart(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	for _, name := range []string{
		"a", "a.dlq", "a.dlq.queue", "a.dlq.queue.queue", "a.dlq.dlq", "a.queue", "a.retry.1m", "a.retry.1m.queue", "a.retry.1m.retry.1m",
		"a.retry", "a.retry.", "a.retry.x", "a.retry.1m.dlq", "a.dlq.retry.1m",
	} {
		q := queueName(name)
		for _, used := range []string{q, deadLetterQueue(q), retryQueue(q, rungOf(time.Minute))} {
			if other, taken := names[used]; taken {
				t.Errorf("%q is a name for the queues %q and %q", used, other, name)
			}
			names[used] = name
			for _, any := range []string{"a", "a.dlq", "a.retry.1m", "a.retry.1m.dlq"} {
				if belongs(used, queueName(any)) != (any == name) {
					t.Errorf("%q belongs to %q: %t", used, any, any != name)
				}
			}
		}
	}
	if queueName("billing") != "billing" || queueName("a.retry.x") != "a.retry.x" || queueName("a.dlq") != "a.dlq.queue" {
		t.Error("other names are changed than those that must be")
	}
}

// Whatever the delay, a message comes not before, hardly after, and in few steps.
func TestLadderAddsUp(t *testing.T) {
	t.Parallel()
	const drift = 3 * time.Millisecond // what a step takes longer than its delay
	for _, c := range []struct {
		delays []time.Duration
		late   time.Duration
		steps  int
	}{
		{nil, time.Second, 50},
		{[]time.Duration{250 * time.Millisecond}, time.Second, 50},
		{[]time.Duration{10 * time.Second, time.Minute, time.Hour}, time.Second, 50},
		{[]time.Duration{5 * time.Millisecond}, 100 * time.Millisecond, 70},
		{[]time.Duration{time.Hour}, time.Second, 50},
	} {
		l := newLadder(&outbox.Subscription{RetryDelays: c.delays}, Declare)
		for _, d := range []time.Duration{
			time.Millisecond, 70 * time.Millisecond, 999 * time.Millisecond, 1001 * time.Millisecond, 9 * time.Second, 59 * time.Second,
			90 * time.Second, 59*time.Minute + 59*time.Second, outbox.MaxRetryDelay - time.Millisecond, outbox.MaxRetryDelay,
		} {
			var waited time.Duration
			steps := 0
			for ; waited < d; steps++ {
				r, err := l.pick(d - waited)
				if err != nil {
					t.Fatal(err)
				}
				waited += time.Duration(r) + drift
			}
			if late := waited - d; late > c.late+drift || steps > c.steps {
				t.Errorf("delays %v: %v becomes %v in %d steps", c.delays, d, waited, steps)
			}
		}
	}
}

func TestLadderPrefersTheDelayItself(t *testing.T) {
	t.Parallel()
	s := outbox.Subscription{RetryDelays: []time.Duration{time.Minute, 1500 * time.Microsecond, time.Minute, 2 * time.Millisecond}}
	l := newLadder(&s, CheckOnly)
	if len(l) != 2 {
		t.Errorf("the rungs are %v, want 2ms and 1m", l)
	}
	for _, d := range s.RetryDelays {
		if r, err := l.pick(d); err != nil || r != rungOf(d) {
			t.Errorf("%v goes to %v (%v)", d, r, err)
		}
	}
	if _, err := newLadder(&outbox.Subscription{}, CheckOnly).pick(1); err == nil {
		t.Error("a delay was found where there is none")
	}
}

func TestUntilRetry(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		header any
		want   time.Duration
	}{
		{nil, 0}, {int64(7), 0}, {"soon", 0},
		{now.Add(time.Second).UTC().Format(time.RFC3339Nano), time.Second},
		{now.Add(-time.Second).UTC().Format(time.RFC3339Nano), -time.Second},
		{"9999-01-01T00:00:00Z", outbox.MaxRetryDelay}, // by a clock that is wrong
	} {
		if got := untilRetry(c.header, now); got != c.want {
			t.Errorf("untilRetry(%v) is %v, want %v", c.header, got, c.want)
		}
	}
}
