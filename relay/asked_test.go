package relay_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
)

// TestBrokerIsLeftAloneAsLongAsItAsks looks at when messages are tried of which the
// first answer asks for a time, longer than the relay would wait by itself.
func TestBrokerIsLeftAloneAsLongAsItAsks(t *testing.T) {
	busy := errors.New("busy")
	for _, c := range []struct {
		name        string
		answer      error
		first, last time.Duration // when the message is tried again
		other       time.Duration // when a message of another key is tried again at the latest
	}{
		{"unavailable", outbox.RetryAfter(20*time.Minute, outbox.Unavailable(busy)), 20 * time.Minute, 21 * time.Minute, 21 * time.Minute},
		{"refused", outbox.RetryAfter(20*time.Minute, outbox.Refused(busy)), 20 * time.Minute, 21 * time.Minute, time.Second},
		{"wrapped", errors.Join(errors.New("post"), outbox.Refused(outbox.RetryAfter(20*time.Minute, busy))), 20 * time.Minute, 21 * time.Minute, time.Second},
		{"too long", outbox.RetryAfter(100*time.Hour, outbox.Refused(busy)), time.Hour, 61 * time.Minute, time.Second},
		{"shorter", outbox.RetryAfter(time.Millisecond, outbox.Refused(busy)), 100 * time.Millisecond, time.Second, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var mu sync.Mutex
				tried := map[string][]time.Duration{}
				began := time.Now()
				_, stop := b.startWith(outbox.PublishFunc(func(_ context.Context, m *outbox.Message) error {
					mu.Lock()
					defer mu.Unlock()
					tried[m.Key] = append(tried[m.Key], time.Since(began))
					if m.Key == "asks" && len(tried[m.Key]) == 1 {
						return c.answer
					}
					return nil
				}), nil)
				b.emitKeys("t", "asks")
				time.Sleep(time.Millisecond)
				b.emitKeys("t", "other")
				time.Sleep(3 * time.Hour)
				b.stopped(stop)
				if at := tried["asks"]; len(at) != 2 || at[1]-at[0] < c.first || at[1]-at[0] > c.last {
					t.Errorf("tried at %v, want again after %v to %v", at, c.first, c.last)
				}
				if at := tried["other"]; len(at) != 1 || at[0] > c.other {
					t.Errorf("the other message was tried at %v, want once, within %v", at, c.other)
				}
			})
		})
	}
}
