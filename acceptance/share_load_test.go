package acceptance

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/worker"
)

// The tests of this file and of history_load_test.go print rates and times. Their
// short forms look only at whether all arrives, and are small; figures come from
// the long ones, by OUTBOX_SOAK, on a machine that does nothing else.

func soaking() bool { return os.Getenv("OUTBOX_SOAK") != "" }

// scale returns the number for the long form, or for the short one.
func scale(short, long int) int {
	if soaking() {
		return long
	}
	return short
}

// decliner refuses the messages of some topics.
type decliner struct {
	outbox.Publisher
	prefix string
}

func (d *decliner) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if strings.HasPrefix(m.Topic, d.prefix) {
		done(outbox.Refused(errPoison))
		return
	}
	d.Publisher.Publish(ctx, m, done)
}

// loaded is an outbox that is filled by SQL, with a relay, a broker and a worker
// that counts.
type loaded struct {
	t      testing.TB
	s      *system
	pg     *postgres
	mu     sync.Mutex
	counts map[string]int // of what has arrived, by topic
	fresh  chan struct{}
}

// declined is what the relays' broker refuses.
const declined = "declined."

func newLoaded(t testing.TB) *loaded {
	s := newSystem(newPostgres(t), newRabbit(t, false))
	l := &loaded{t: t, s: s, pg: s.database.(*postgres), counts: map[string]int{}, fresh: make(chan struct{}, 1)}
	w := worker.New(s.subscriber(t), &worker.Config{Queue: "load", Concurrency: 4, Prefetch: 2000, Logger: quiet()})
	worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.counts[d.Topic]++
		select {
		case l.fresh <- struct{}{}:
		default:
		}
		return nil
	})
	t.Cleanup(runWorker(t, w))
	return l
}

// fill commits n messages of a topic, of so many keys, 250 bytes each.
func (l *loaded) fill(topic, tenant, prefix string, keys, n int) {
	l.t.Helper()
	_, err := l.pg.pool.Exec(context.Background(), `
		INSERT INTO outbox.message (topic, tenant, key, content_type, payload)
		SELECT $1, $2, $3 || i % $4, 'application/octet-stream', convert_to(repeat('x', 250), 'UTF8') FROM generate_series(1, $5) AS i`,
		topic, tenant, prefix, keys, n)
	must(l.t, err)
	l.pg.wake()
}

// await waits until n messages of a topic have arrived.
func (l *loaded) await(topic string, n int) {
	l.t.Helper()
	late := time.After(10 * patience)
	for {
		l.mu.Lock()
		have := l.counts[topic]
		l.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-l.fresh:
		case <-late:
			l.t.Fatalf("%d of %d messages of %s have arrived", have, n, topic)
		}
	}
}

// round measures how many messages a second arrive, of n on a topic of its own.
func (l *loaded) round(number, n int) float64 {
	l.t.Helper()
	topic := "good.round" + strconv.Itoa(number)
	began := time.Now()
	l.fill(topic, "", "good", 1000, n)
	l.await(topic, n)
	return float64(n) / time.Since(began).Seconds()
}

// relay starts a relay in this process.
func (l *loaded) relay(config relay.Config) {
	l.t.Helper()
	p, err := openPublisher(l.s.address)
	must(l.t, err)
	l.s.startRelayWith(l.t, &decliner{p, declined}, config)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// ratio prints how the second of two series compares with the first.
func ratio(t testing.TB, what string, plain, loaded []float64) {
	t.Helper()
	t.Logf("%s: %.0f messages/s alone (%.0f), %.0f with it (%.0f): ratio of the medians %.3f",
		what, median(plain), plain, median(loaded), loaded, median(loaded)/median(plain))
}

// TestSoakRefusedTopic compares the rate of a topic alone with its rate beside one
// that is always refused, in turns.
func TestSoakRefusedTopic(t *testing.T) {
	t.Parallel()
	n, rounds := scale(1000, 30_000), scale(1, 7)
	plain, beside := newLoaded(t), newLoaded(t)
	plain.relay(relay.Config{})
	beside.relay(relay.Config{})
	beside.fill(declined+"x", "", "bad", 100, n/30)
	var a, b []float64
	for i := range rounds {
		a = append(a, plain.round(i, n))
		beside.fill(declined+"x", "", "bad"+strconv.Itoa(i), 1000, n/30)
		b = append(b, beside.round(i, n))
	}
	ratio(t, "a topic that is always refused, one message in thirty", a, b)
	eventually(t, "all but the refused to be settled", func() (bool, string) {
		stats, err := beside.pg.store.Stats(context.Background())
		must(t, err)
		return int(stats.Dead+stats.Pending) == (rounds+1)*(n/30), fmt.Sprintf("%d dead, %d pending", stats.Dead, stats.Pending)
	})
}

// residentKB returns a line of a process's status: VmRSS, or VmHWM for the most
// that it was.
func residentKB(t testing.TB, pid int, line string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for text := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(text, ":"); name == line {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			must(t, err)
			return kb
		}
	}
	t.Fatalf("%s is not in the status of %d", line, pid)
	return 0
}

// TestSoakBlockedKey compares the rate of other keys with and without a key of which
// a million messages wait behind a blocked one. The relays are processes of their
// own, so that their memory can be told.
func TestSoakBlockedKey(t *testing.T) {
	t.Parallel()
	n, rounds, successors := scale(1000, 30_000), scale(1, 7), scale(20_000, 1_000_000)
	config := &relayConfig{Config: relay.Config{
		MaxAttempts: 1, Policies: []relay.TopicPolicy{{Pattern: declined + "#", Policy: relay.Block}},
	}}
	start := func(l *loaded) *child {
		return startChild(t, &childConfig{Database: l.s.databaseURL(), Broker: l.s.address, Relay: config, Declined: declined})
	}
	plain, blocked := newLoaded(t), newLoaded(t)
	blocked.fill(declined+"x", "", "blocked", 1, successors+1)
	start(plain)
	process := start(blocked)
	idle := residentKB(t, process.cmd.Process.Pid, "RssFile") // the program itself, for the most part
	began := time.Now()
	first := blocked.round(-1, n) // behind all of them
	t.Logf("with %d successors before them %d messages took %v (%.0f messages/s)", successors, n, time.Since(began).Round(time.Millisecond), first)
	var a, b []float64
	for i := range rounds {
		a = append(a, plain.round(i, n))
		b = append(b, blocked.round(i, n))
	}
	ratio(t, fmt.Sprintf("a blocked key with %d successors", successors), a, b)
	most, now := residentKB(t, process.cmd.Process.Pid, "VmHWM"), residentKB(t, process.cmd.Process.Pid, "VmRSS")
	t.Logf("the relay's process has %d KiB, and had %d KiB at most; %d KiB of it are the program's file, %d KiB were when it started",
		now, most, residentKB(t, process.cmd.Process.Pid, "RssFile"), idle)
	if soaking() && most > 64<<10 {
		t.Errorf("the relay took %d KiB, want less than 64 MiB", most)
	}
	wantOneBlocked(t, blocked.pg.store, successors)
}

func wantOneBlocked(t testing.TB, admin store.Admin, successors int) {
	t.Helper()
	eventually(t, "one blocked message with its successors", func() (bool, string) {
		stats, err := admin.Stats(context.Background())
		must(t, err)
		return stats.Blocked == 1 && int(stats.Pending) == successors+1 && stats.Dead == 0,
			fmt.Sprintf("%d blocked, %d pending, %d dead", stats.Blocked, stats.Pending, stats.Dead)
	})
}

// TestSoakTenant puts ten messages of one tenant behind very many of another.
func TestSoakTenant(t *testing.T) {
	t.Parallel()
	many, rounds := scale(5000, 200_000), scale(1, 3)
	var alone, behind, running []float64
	for i := range rounds {
		alone = append(alone, smallTenant(t, i, 0, false))
		behind = append(behind, smallTenant(t, i, many, false))
		running = append(running, smallTenant(t, i, many, true))
	}
	t.Logf("ten messages took %.3f s alone (%.3f), %.3f s behind %d of another tenant when the relay starts (%.3f), %.3f s when it runs (%.3f)",
		median(alone), alone, median(behind), many, behind, median(running), running)
	if soaking() && max(median(behind), median(running)) > median(alone)+1 {
		t.Errorf("the small tenant waits for longer than a second behind the great one")
	}
}

// smallTenant returns the seconds that ten messages of a tenant take that are
// committed behind many of another.
func smallTenant(t *testing.T, round, many int, running bool) (seconds float64) {
	t.Helper()
	l := newLoaded(t)
	if running {
		l.relay(relay.Config{})
		l.fill("warm.up", "small", "k", 10, 10)
		l.await("warm.up", 10)
	}
	l.fill("great.load", "great", "k", 1000, many)
	began := time.Now()
	l.fill("small.load", "small", "k", 10, 10)
	if !running {
		began = time.Now()
		l.relay(relay.Config{})
	}
	l.await("small.load", 10)
	seconds = time.Since(began).Seconds()
	l.await("great.load", many)
	t.Logf("round %d: %d before, running %t: %.3f s", round, many, running, seconds)
	return seconds
}
