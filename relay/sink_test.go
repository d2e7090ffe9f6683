package relay_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// sink judges deliveries as they come: of each key the numbers 1, 2, 3 and so on,
// repeats being allowed only of what was delivered before.
type sink struct {
	mu      sync.Mutex
	last    map[string]int // greatest number delivered of each key
	prev    map[string]int // number delivered last of each key
	total   int            // deliveries
	repeats int
	jumps   int // repeats of another number than the key's last one or the next to the one before
	faults  []string
	times   []time.Time
}

func newSink() *sink { return &sink{last: map[string]int{}, prev: map[string]int{}} }

// deliver notes that the broker has m.
func (s *sink) deliver(m *outbox.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(string(m.Payload[:digits(m.Payload)]))
	last, prev := s.last[m.Key], s.prev[m.Key]
	s.total++
	s.times = append(s.times, time.Now())
	switch {
	case err != nil:
		s.faults = append(s.faults, err.Error())
	case n == last+1:
		s.last[m.Key] = n
	case n <= last:
		s.repeats++
		if n != last && n != prev+1 {
			s.jumps++
		}
	case len(s.faults) < 10:
		s.faults = append(s.faults, fmt.Sprintf("key %s: number %d after number %d", m.Key, n, last))
	}
	s.prev[m.Key] = n
}

// note notes a delivery that another sink judges.
func (s *sink) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times = append(s.times, time.Now())
}

func digits(payload []byte) int {
	for i, c := range payload {
		if c < '0' || c > '9' {
			return i
		}
	}
	return len(payload)
}

// Publish delivers and confirms.
func (s *sink) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	s.deliver(m)
	done(nil)
}

func (s *sink) Close() error { return nil }

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *sink) repeated() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.repeats
}

func (s *sink) lastOf(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last[key]
}

// between returns the number of deliveries from one time to before another.
func (s *sink) between(from, to time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, at := range s.times {
		if !at.Before(from) && at.Before(to) {
			n++
		}
	}
	return n
}

// wantOrder checks that nothing was out of order so far.
func (s *sink) wantOrder(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) > 0 {
		t.Fatalf("out of order: %v", s.faults)
	}
}

// want checks that of each key all numbers up to the given one came, in order.
func (s *sink) want(t *testing.T, want map[string]int) {
	t.Helper()
	s.wantOrder(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	missing := 0
	for key, n := range want {
		if s.last[key] != n {
			if missing++; missing < 5 {
				t.Errorf("key %s: delivered up to %d of %d", key, s.last[key], n)
			}
		}
	}
	if missing > 0 {
		t.Fatalf("%d of %d keys are not delivered whole", missing, len(want))
	}
}

// wantOnce is want without repeats.
func (s *sink) wantOnce(t *testing.T, want map[string]int) {
	t.Helper()
	s.want(t, want)
	if n := s.repeated(); n != 0 {
		t.Fatalf("%d messages were delivered again", n)
	}
}
