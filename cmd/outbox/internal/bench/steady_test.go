package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/internal/testenv"
)

// steadyGood measures for a moment, in which nothing may be lost.
func steadyGood(t *testing.T, o SteadyOptions) *SteadyResult {
	t.Helper()
	o.Rate, o.Duration, o.WarmUp = 200, 500*time.Millisecond, 100*time.Millisecond
	o.Load = measure.Load{Keys: 10, Payload: 100}
	o.Prefetch, o.Logger = 100, testLogger(t)
	result, err := Steady(t.Context(), o)
	if err != nil {
		t.Fatalf("%v, result %+v", err, result)
	}
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	if result.Committed != 120 || result.Delivered != 120 || result.RolledBack != 2 {
		t.Errorf("%d committed, %d delivered, %d rolled back, want 120, 120 and 2", result.Committed, result.Delivered, result.RolledBack)
	}
	if n := result.latencies.Len(); n != 100 {
		t.Errorf("%d latencies, want those of the 100 that count", n)
	}
	if p := []float64{0, result.LatencyP50, result.LatencyP90, result.LatencyP99, result.LatencyMax}; !slices.IsSorted(p) || p[1] == 0 {
		t.Errorf("latencies of %v ms", p)
	}
	if result.AchievedPerSecond <= 0 || result.OfferedPerSecond != 200 {
		t.Errorf("%v of %v transactions a second", result.AchievedPerSecond, result.OfferedPerSecond)
	}
	return result
}

func TestSteadyOnSQLiteAndJetStreamLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	result := steadyGood(t, SteadyOptions{Emitters: 2})
	if result.Settings.Relay != "here" {
		t.Errorf("the relay is %s", result.Settings.Relay)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestSteadyOnPostgresAndRabbitMQLeavesNothing(t *testing.T) {
	t.Parallel()
	pg, mq := testenv.Postgres(t), testenv.RabbitMQ(t)
	o := SteadyOptions{Emitters: 3, Hold: time.Millisecond, HoldShare: 0.5}
	o.DatabaseURL, o.Broker.URL = pg.NewDatabase(t), mq.NewVHost(t)
	result := steadyGood(t, o)
	if s := result.Settings; s.QueueType != "quorum" || s.HoldMS != 1 || !strings.Contains(result.Conditions.Database, "PostgreSQL") {
		t.Errorf("got %+v on %+v", s, result.Conditions)
	}
	wantNoTraces(t, pg, mq, &o)
}

// wantNoTraces fails the test if something of a run is left.
func wantNoTraces(t *testing.T, pg *testenv.PostgresServer, mq *testenv.RabbitMQServer, o *SteadyOptions) {
	t.Helper()
	if schemas := pg.Exec(o.DatabaseURL, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'outbox\_bench%'`); len(schemas) > 0 {
		t.Errorf("schemas left behind: %v", schemas)
	}
	u, err := url.Parse(o.Broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	for what, module := range map[string]string{"queue": "rabbit_amqqueue", "exchange": "rabbit_exchange"} {
		left := mq.Eval(fmt.Sprintf(`[element(4, element(2, X)) || X <- %s:list(<<"%s">>), binary:match(element(4, element(2, X)), <<"bench">>) =/= nomatch].`,
			module, strings.TrimPrefix(u.Path, "/")))
		if left != "[]" {
			t.Errorf("%s left behind: %s", what, left)
		}
	}
}

// What belongs to somebody else, the outbox, the exchange and the relay, stays.
func TestSteadyWithSomebodyElsesRelay(t *testing.T) {
	t.Parallel()
	pg, mq := testenv.Postgres(t), testenv.RabbitMQ(t)
	o := SteadyOptions{Emitters: 2}
	o.DatabaseURL, o.Broker.URL, o.Broker.Exchange = pg.NewDatabase(t), mq.NewVHost(t), "theirs"
	o.Elsewhere = &config.Database{URL: o.DatabaseURL, Schema: "their schema"}
	stop := someRelay(t, *o.Elsewhere, o.Broker)
	result := steadyGood(t, o)
	stop()
	if result.Settings.Relay != "none" {
		t.Errorf("the relay is %s", result.Settings.Relay)
	}
	if left := pg.Exec(o.DatabaseURL, `SELECT count(*) FROM "their schema".message`); left[0][0] != "0" {
		t.Errorf("%v messages in their outbox", left)
	}
	wantNoTraces(t, pg, mq, &o)
}

func TestSteadyRemovesItsQueueFromSomebodyElsesStream(t *testing.T) {
	t.Parallel()
	own, err := scratch.New("outbox_test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Remove(context.Background()) })
	theirs, err := own.Broker(config.Broker{})
	if err != nil {
		t.Fatal(err)
	}
	o := SteadyOptions{Emitters: 2}
	o.DatabaseURL, o.Broker = testenv.Postgres(t).NewDatabase(t), theirs
	o.Elsewhere = &config.Database{URL: o.DatabaseURL, Schema: "theirs"}
	stop := someRelay(t, *o.Elsewhere, theirs)
	steadyGood(t, o)
	stop()
	if names := consumersOf(t, theirs); len(names) > 0 {
		t.Errorf("consumers left behind: %v", names)
	}
}

func TestSteadySaysWhatElsewhereLacks(t *testing.T) {
	t.Parallel()
	o := SteadyOptions{Rate: 10, Duration: time.Second, Emitters: 1}
	o.DatabaseURL, o.Logger = testenv.Postgres(t).NewDatabase(t), testLogger(t)
	o.Elsewhere = &config.Database{URL: o.DatabaseURL, Schema: "none"}
	if result, err := Steady(t.Context(), o); err == nil || result != nil {
		t.Errorf("got %+v, want that there is no outbox", result)
	}
}

func TestSteadyTellsOfATimeout(t *testing.T) {
	t.Parallel()
	o := SteadyOptions{Rate: 10, Duration: time.Hour, Emitters: 1}
	o.Timeout, o.Prefetch, o.Logger = 500*time.Millisecond, 1, testLogger(t)
	result, err := Steady(t.Context(), o)
	if !errors.Is(err, ErrTimeout) || result != nil || !strings.Contains(err.Error(), "of 36000 transactions") {
		t.Errorf("got %+v, %v, want a timeout", result, err)
	}
}

// The schedule is open: one slow commit puts off none but those behind it on its own
// connection, which then come at once, until they have caught up.
func TestSteadySlowCommitDoesNotLowerTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		schedule := &measure.Schedule{Rate: 100, Duration: time.Second, Emitters: 2}
		began := time.Now()
		var mu sync.Mutex
		at := map[int]time.Duration{}
		commit := func(_ context.Context, tx steadyTx) error {
			if tx.rollBack {
				return nil
			}
			mu.Lock()
			at[tx.number] = time.Since(began)
			mu.Unlock()
			if tx.number == 10 {
				time.Sleep(105 * time.Millisecond)
			}
			return nil
		}
		e := newSteadyEmitters(schedule, 200*time.Millisecond, commit, func(err error) { t.Error(err) })
		e.start(t.Context())
		e.running.Wait()
		defer e.stop()
		for n := range 100 {
			want := time.Duration(n) * 10 * time.Millisecond
			if n%2 == 0 && n > 10 && n <= 20 { // behind the slow one
				want = 205 * time.Millisecond
			}
			if got := at[n]; (got - want).Abs() > time.Microsecond {
				t.Errorf("message %d was committed at %v, want %v", n, got, want)
			}
		}
		perSecond, late := e.achieved()
		if perSecond != 100 || (late-5*time.Millisecond).Abs() > time.Microsecond || !e.finished() {
			t.Errorf("%v/s, %v late, finished %v, want 100/s, 5 ms late of number 20, and all", perSecond, late, e.finished())
		}
	})
}

func TestSteadyReportsARateThatIsNotReached(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		schedule := &measure.Schedule{Rate: 100, Duration: time.Second, Emitters: 1}
		slow := func(context.Context, steadyTx) error { time.Sleep(20 * time.Millisecond); return nil }
		e := newSteadyEmitters(schedule, 0, slow, func(err error) { t.Error(err) })
		e.start(t.Context())
		e.running.Wait()
		e.stop()
		perSecond, late := e.achieved()
		if perSecond < 49 || perSecond > 51 || late < 950*time.Millisecond {
			t.Errorf("%v/s, %v late, want half of 100/s, and all the later", perSecond, late)
		}
		r := SteadyResult{OfferedPerSecond: 100, AchievedPerSecond: perSecond}
		var out strings.Builder
		if err := r.WriteTable(&out); err != nil || !strings.Contains(out.String(), "not reached") {
			t.Errorf("%v, %s", err, &out)
		}
	})
}

func TestSteadyEndsWithAFailedCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var failed error
		ctx, cancel := context.WithCancel(t.Context())
		commit := func(_ context.Context, tx steadyTx) error {
			if tx.number == 3 {
				return broken
			}
			return nil
		}
		e := newSteadyEmitters(&measure.Schedule{Rate: 100, Duration: time.Hour, Emitters: 2}, 0, commit, func(err error) { failed = err; cancel() })
		e.start(ctx)
		e.running.Wait()
		e.stop()
		if !errors.Is(failed, broken) || e.finished() {
			t.Errorf("got %v, finished %v", failed, e.finished())
		}
	})
}

func TestSteadyFailsIfThePromiseIsNotKept(t *testing.T) {
	t.Parallel()
	for _, bad := range []measure.Verdict{{Lost: 1}, {Phantom: 1}, {OutOfOrder: 1}} {
		if (&SteadyResult{Verdict: bad}).Err() == nil {
			t.Errorf("%+v is no failure", bad)
		}
	}
	if err := (&SteadyResult{Verdict: measure.Verdict{Duplicates: 1}}).Err(); err != nil {
		t.Error(err)
	}
}

func TestSteadyKeysOfJSON(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	result := SteadyResult{Histogram: []SteadyBucket{{}}, RelayCPUSeconds: 1, RelayPeakRSSBytes: 1}
	if err := result.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"achieved_per_second", "benchmark", "committed", "conditions", "cpu_seconds", "delivered", "duplicates",
		"histogram", "histogram.count", "histogram.up_to_ms",
		"latency_max_ms", "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "lateness_p99_ms", "lost", "messages_per_second",
		"offered_per_second", "out_of_order", "peak_rss_bytes", "phantom", "relay_cpu_seconds", "relay_peak_rss_bytes", "rolled_back", "settings",
		"settings.duration_seconds", "settings.emitters", "settings.hold_ms", "settings.hold_share", "settings.keys", "settings.payload_bytes",
		"settings.prefetch", "settings.rate", "settings.relay", "settings.warm_up_seconds",
	}
	if diff := cmp.Diff(want, keysOfJSON(t, out.String(), "conditions")); diff != "" {
		t.Error(diff)
	}
}

func TestSteadyLeavesAFileOfSomebodyElseAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop.db")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := SteadyOptions{Rate: 10, Duration: time.Second, Emitters: 1}
	o.DatabaseURL, o.Logger = "sqlite:"+path, testLogger(t)
	if _, err := Steady(t.Context(), o); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got %v, want that the file exists", err)
	}
}

// What has arrived is committed, though the answer to the commit may be on its way.
func TestSteadyWaitsForTheAnswersToItsLastCommits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		load := measure.Load{Messages: 10, Payload: 100}
		tally := measure.NewTally(load)
		commit := func(ctx context.Context, tx steadyTx) error {
			if !tx.rollBack {
				tally.Deliver(load.Body(tx.number), time.Now())
			}
			select {
			case <-time.After(time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		schedule := &measure.Schedule{Rate: 10, Duration: time.Second, Emitters: 1}
		s := &steady{
			traffic:  &traffic{tally: tally},
			emitters: newSteadyEmitters(schedule, 0, commit, func(err error) { t.Error(err) }),
		}
		if err := s.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.traffic.arrive(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.stop(); err != nil || !s.emitters.finished() {
			t.Errorf("%v, %d of 10 are known to be committed", err, s.emitters.count())
		}
	})
}
