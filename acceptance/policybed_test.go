package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/worker"
)

// step is the payload of the messages that the policies are tried with: the N-th of
// its key. The broker refuses one that is poison, until it is cured.
type step struct {
	Key    string
	N      int
	Poison bool `json:",omitempty"`
}

var (
	errPoison = errors.New("not this one")
	errMood   = errors.New("not now")
)

// book is what came out at the end, in its order.
type book struct {
	mu    sync.Mutex
	steps []step
}

func (b *book) write(s step) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.steps = append(b.steps, s)
}

func (b *book) handle(_ context.Context, d *worker.Delivery[step]) error {
	b.write(d.Payload)
	return nil
}

// course is what a key is to show: these numbers, in this order.
type course map[string][]int

// compare tells how the book differs from the courses. A key may begin again, after
// a take-over, somewhere in what it has shown before, and then shows what follows
// once more, in order: these are repeats, and rewinds is how often it began again.
// What is no repeat must be the next number of its key.
func (b *book) compare(want course) (missing int, faults []string, repeats, rewinds int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	place := map[string]int{} // of the last one, from 1
	first := map[string]int{} // of the furthest one
	for _, s := range b.steps {
		i := slices.Index(want[s.Key], s.N) + 1
		last := place[s.Key]
		switch {
		case i == 0:
			faults = append(faults, fmt.Sprintf("key %s shows %d, which must not come", s.Key, s.N))
			continue
		case i > last+1:
			faults = append(faults, fmt.Sprintf("key %s shows its %d. message after the %d.", s.Key, i, last))
		case i <= last:
			rewinds++
		}
		if i <= first[s.Key] {
			repeats++
		}
		place[s.Key], first[s.Key] = i, max(i, first[s.Key])
	}
	for key, numbers := range want {
		missing += len(numbers) - first[key]
	}
	return missing, faults, repeats, rewinds
}

// policyBed is an outbox and a broker to try policies with.
type policyBed struct {
	t         testing.TB
	policy    relay.Policy
	admin     store.Admin
	emit      func(steps ...step) error // in a transaction of its own
	open      func() (relay.Store, func())
	publisher func() outbox.Publisher
	book      *book
	emitted   course // without regard to policies; written by the emitters under mu
	poison    map[string][]int
	mu        sync.Mutex
}

const (
	bedTopic    = "step.made"
	bedAttempts = 4
)

func (b *policyBed) config() relay.Config {
	return relay.Config{
		Window: 100, SettleBatch: 100, LeaseTTL: 500 * time.Millisecond, PollInterval: 100 * time.Millisecond,
		MaxAttempts: bedAttempts, Policies: []relay.TopicPolicy{{Pattern: "step.*", Policy: b.policy}},
		RefusedBackoff: 10 * time.Millisecond, MaxRefusedBackoff: 40 * time.Millisecond,
		UnavailableBackoff: 5 * time.Millisecond, MaxUnavailableBackoff: 40 * time.Millisecond,
		DrainTimeout: time.Second, Logger: quiet(),
	}
}

func decodeStep(t testing.TB, payload []byte) (s step) {
	t.Helper()
	must(t, json.Unmarshal(payload, &s))
	return s
}

// events makes the messages of steps.
func events(steps []step) []outbox.Event {
	list := make([]outbox.Event, len(steps))
	for i, s := range steps {
		list[i] = outbox.Event{Topic: bedTopic, Key: s.Key, Payload: s}
	}
	return list
}

// next emits one message more of each key, and notes it; poison tells which are.
func (b *policyBed) next(poison func(key string, n int) bool, keys ...string) {
	b.mu.Lock()
	steps := make([]step, len(keys))
	for i, key := range keys {
		n := len(b.emitted[key]) + 1
		steps[i] = step{key, n, poison(key, n)}
		b.emitted[key] = append(b.emitted[key], n)
		if steps[i].Poison {
			b.poison[key] = append(b.poison[key], n)
		}
	}
	b.mu.Unlock()
	if err := b.emit(steps...); err != nil {
		b.t.Errorf("emit: %v", err)
	}
}

func harmless(string, int) bool { return false }

// courses says what each key is to show while the poison is refused, and which
// numbers of it remain: by the policy as dead letters or in the outbox.
func (b *policyBed) courses() (shown, remaining course) {
	shown, remaining = course{}, course{}
	for key, numbers := range b.emitted {
		poison := b.poison[key]
		cut := len(numbers)
		if len(poison) > 0 && b.policy != relay.Skip {
			cut = poison[0] - 1
		}
		for _, n := range numbers {
			if n > cut || slices.Contains(poison, n) {
				remaining[key] = append(remaining[key], n)
			} else {
				shown[key] = append(shown[key], n)
			}
		}
	}
	return shown, remaining
}

func (c course) total() (n int) {
	for _, numbers := range c {
		n += len(numbers)
	}
	return n
}

// await waits until the book shows the courses and the store so many dead letters
// and pending messages, and fails the test for what is out of order.
func (b *policyBed) await(what string, want course, dead, pending int) (repeats, rewinds int) {
	b.t.Helper()
	eventually(b.t, what, func() (bool, string) {
		missing, faults, _, _ := b.book.compare(want)
		if len(faults) > 0 {
			b.t.Fatalf("%s: %d faults, such as: %s", what, len(faults), faults[0])
		}
		if missing > 0 {
			return false, fmt.Sprintf("%d of %d messages yet to come", missing, want.total())
		}
		stats, err := b.admin.Stats(context.Background())
		must(b.t, err)
		return int(stats.Dead) == dead && int(stats.Pending) == pending,
			fmt.Sprintf("%d dead, %d pending, where %d and %d are wanted", stats.Dead, stats.Pending, dead, pending)
	})
	_, _, repeats, rewinds = b.book.compare(want)
	return repeats, rewinds
}

// list returns all messages of a state.
func (b *policyBed) list(state store.State) []store.Stored {
	b.t.Helper()
	return listAll(b.t, b.admin, store.Query{State: state})
}

func listAll(t testing.TB, admin store.Admin, q store.Query) (all []store.Stored) {
	t.Helper()
	for q.Limit = 500; ; {
		page, err := admin.List(context.Background(), q)
		must(t, err)
		all = append(all, page...)
		if len(page) < q.Limit {
			return all
		}
		q.After = page[len(page)-1].Place
	}
}

// wantDead checks that the dead letters are those that remain, each for the right
// reason.
func (b *policyBed) wantDead(remaining course) {
	b.t.Helper()
	got := course{}
	for _, d := range b.list(store.Dead) {
		s := decodeStep(b.t, d.Payload)
		got[s.Key] = append(got[s.Key], s.N)
		reason, attempts := store.Exhausted, bedAttempts
		if b.policy == relay.Park && s.N != remaining[s.Key][0] {
			reason = store.Parked
			attempts = d.Attempts
		}
		if d.Reason != reason || d.Attempts != attempts || d.Parked != (b.policy == relay.Park) {
			b.t.Fatalf("dead letter %d of key %s: reason %q, %d attempts, parked %t; want %q, %d, %t",
				s.N, s.Key, d.Reason, d.Attempts, d.Parked, reason, attempts, b.policy == relay.Park)
		}
		if reason == store.Exhausted && d.LastError == "" {
			b.t.Fatalf("dead letter %d of key %s does not say what the broker said", s.N, s.Key)
		}
	}
	for key := range remaining {
		slices.Sort(got[key])
	}
	if fmt.Sprint(got) != fmt.Sprint(remaining) {
		b.t.Fatalf("the dead letters are %v, want %v", got, remaining)
	}
}

// wantBlocked checks that of each key with poison its first is blocked, and
// returns these.
func (b *policyBed) wantBlocked(remaining course) (blocked []store.Ref) {
	b.t.Helper()
	got, want := map[string]int{}, map[string]int{}
	for key, numbers := range remaining {
		want[key] = numbers[0]
	}
	for _, p := range b.list(store.Pending) {
		s := decodeStep(b.t, p.Payload)
		if p.RetryIn == store.Never {
			got[s.Key] = s.N
			blocked = append(blocked, store.Ref{Position: p.Position, ID: p.ID})
		} else if p.Attempts > 0 {
			b.t.Fatalf("message %d of key %s has %d attempts, want none behind a blocked one", s.N, s.Key, p.Attempts)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Fatalf("blocked are %v, want %v", got, want)
	}
	return blocked
}
