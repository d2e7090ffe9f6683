package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// line is an item of a source of the user's own.
type line struct {
	id, tenant, key string
	attempts        int
	lastError       error
	sent            bool
}

// table is a source of lines: those that are not sent and were not refused.
type table struct {
	lines                  []*line
	fetchErr, sent, failed error
	limits                 []int
	noted                  []error // by the contexts of Sent and Failed
}

func (t *table) Fetch(_ context.Context, limit int) ([]*line, error) {
	t.limits = append(t.limits, limit)
	var due []*line
	for _, l := range t.lines {
		if !l.sent && l.attempts == 0 && len(due) < limit {
			due = append(due, l)
		}
	}
	return due, t.fetchErr
}

func (t *table) Sent(ctx context.Context, l *line) error {
	t.noted = append(t.noted, ctx.Err())
	l.sent = t.sent == nil
	return t.sent
}

func (t *table) Failed(ctx context.Context, l *line, err error) error {
	t.noted = append(t.noted, ctx.Err())
	l.attempts++
	l.lastError = err
	return t.failed
}

func mapLine(_ context.Context, l *line) (*outbox.Message, error) {
	return &outbox.Message{ID: l.id, Topic: "t", Tenant: l.tenant, Key: l.key}, nil
}

// recorded collects what is published and answers by what the ids are mapped to.
type recorded struct {
	ids     []string
	answers map[string]error
}

func (r *recorded) publish(_ context.Context, m *outbox.Message) error {
	r.ids = append(r.ids, m.ID)
	return r.answers[m.ID]
}

func lines(ids ...string) *table {
	t := &table{}
	for _, id := range ids {
		t.lines = append(t.lines, &line{id: id})
	}
	return t
}

func wantResult(t *testing.T, got, want relay.Result) {
	t.Helper()
	if got != want {
		t.Errorf("result %+v, want %+v", got, want)
	}
}

func wantCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
}

func TestProduceSendsWhatTheSourceHasOnce(t *testing.T) {
	t.Parallel()
	source, sent := lines(), &recorded{}
	p := relay.NewProducer(source, mapLine, sent.publish, &relay.ProducerConfig{Limit: 2})
	for _, step := range []struct {
		add  []string
		want int
	}{{nil, 0}, {[]string{"a"}, 1}, {nil, 0}, {[]string{"b", "c", "d"}, 2}, {nil, 1}, {nil, 0}} {
		for _, id := range step.add {
			source.lines = append(source.lines, &line{id: id})
		}
		result, err := p.Produce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantResult(t, result, relay.Result{Taken: step.want, Sent: step.want})
	}
	wantCalls(t, sent.ids, "a", "b", "c", "d")
}

func TestProduceAsksForAHundredUnlessTold(t *testing.T) {
	t.Parallel()
	source := lines()
	for _, config := range []*relay.ProducerConfig{nil, {Limit: 7}} {
		if _, err := relay.NewProducer(source, mapLine, (&recorded{}).publish, config).Produce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(source.limits, []int{100, 7}) {
		t.Errorf("asked for %v", source.limits)
	}
}

func TestProduceNotesFailuresAndGoesOn(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		mapper  func() (*outbox.Message, error)
		publish func() error
		want    string
		class   error
	}{
		"mapper's error":      {mapper: func() (*outbox.Message, error) { return nil, boom }, want: "map: boom", class: boom},
		"mapper's panic":      {mapper: func() (*outbox.Message, error) { panic("mad") }, want: "map: panic: mad"},
		"no message":          {mapper: func() (*outbox.Message, error) { return nil, nil }, want: "no message", class: outbox.ErrInvalid},
		"no id":               {mapper: func() (*outbox.Message, error) { return &outbox.Message{}, nil }, want: "without an ID", class: outbox.ErrInvalid},
		"publisher's error":   {publish: func() error { return boom }, want: "boom", class: boom},
		"publisher's panic":   {publish: func() error { panic("mad") }, want: "panic: mad", class: outbox.ErrRefused},
		"unavailable as well": {publish: func() error { return outbox.Unavailable(boom) }, want: "boom", class: outbox.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, sent := lines("bad", "good"), &recorded{}
			mapper := func(ctx context.Context, l *line) (*outbox.Message, error) {
				if l.id == "bad" && c.mapper != nil {
					return c.mapper()
				}
				return mapLine(ctx, l)
			}
			publish := func(ctx context.Context, m *outbox.Message) error {
				if m.ID == "bad" && c.publish != nil {
					return c.publish()
				}
				return sent.publish(ctx, m)
			}
			result, err := relay.NewProducer(source, mapper, publish, nil).Produce(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			wantResult(t, result, relay.Result{Taken: 2, Sent: 1, Failed: 1})
			wantCalls(t, sent.ids, "good")
			noted := source.lines[0].lastError
			if noted == nil || !strings.Contains(noted.Error(), c.want) || c.class != nil && !errors.Is(noted, c.class) {
				t.Errorf("noted %v", noted)
			}
		})
	}
}

func TestProducePassesOverWhatIsBehindAFailure(t *testing.T) {
	t.Parallel()
	source := &table{lines: []*line{
		{id: "k1", key: "k"}, {id: "n1"}, {id: "k2", key: "k"}, {id: "other", key: "k", tenant: "other"}, {id: "n2"}, {id: "j", key: "j"},
	}}
	refused := errors.New("no")
	sent := &recorded{answers: map[string]error{"k1": refused, "n1": refused}}
	result, err := relay.NewProducer(source, mapLine, sent.publish, nil).Produce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantResult(t, result, relay.Result{Taken: 6, Sent: 3, Failed: 2, Passed: 1})
	wantCalls(t, sent.ids, "k1", "n1", "other", "n2", "j")
	if l := source.lines[2]; l.sent || l.attempts != 0 {
		t.Errorf("what was passed over was noted: %+v", l)
	}
}

func TestProduceKnowsTheKeyOfWhatCouldNotBeMapped(t *testing.T) {
	t.Parallel()
	source, sent := &table{lines: []*line{{id: "bad", key: "k"}, {id: "next", key: "k"}}}, &recorded{}
	mapper := func(ctx context.Context, l *line) (*outbox.Message, error) {
		m, _ := mapLine(ctx, l)
		if l.id == "bad" {
			return m, errors.New("half of it")
		}
		return m, nil
	}
	result, err := relay.NewProducer(source, mapper, sent.publish, nil).Produce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wantResult(t, result, relay.Result{Taken: 2, Failed: 1, Passed: 1})
}

func TestProduceReturnsTheErrorsOfItsSource(t *testing.T) {
	t.Parallel()
	down := errors.New("no table")
	for name, source := range map[string]*table{
		"fetch": {fetchErr: down}, "as sent": {sent: down, lines: []*line{{id: "a"}, {id: "b"}}}, "as failed": {failed: down, lines: []*line{{id: "bad"}, {id: "b"}}},
	} {
		sent := &recorded{answers: map[string]error{"bad": errors.New("no")}}
		_, err := relay.NewProducer(source, mapLine, sent.publish, nil).Produce(t.Context())
		if !errors.Is(err, down) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
		if len(sent.ids) > 1 {
			t.Errorf("%s: went on", name)
		}
	}
}

func TestProduceThatIsStoppedCountsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	source := lines("a", "b")
	publish := func(ctx context.Context, _ *outbox.Message) error {
		cancel()
		return ctx.Err()
	}
	result, err := relay.NewProducer(source, mapLine, publish, nil).Produce(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	wantResult(t, result, relay.Result{Taken: 2})
	if len(source.noted) != 0 {
		t.Error("a failure was noted")
	}
}

func TestProduceNotesWhatWasSentAlthoughItIsStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	source := lines("a", "b")
	publish := func(context.Context, *outbox.Message) error { cancel(); return nil }
	result, err := relay.NewProducer(source, mapLine, publish, nil).Produce(ctx)
	if !errors.Is(err, context.Canceled) || len(source.noted) != 1 || source.noted[0] != nil {
		t.Errorf("error %v, noted with %v", err, source.noted)
	}
	wantResult(t, result, relay.Result{Taken: 2, Sent: 1})
}

func TestProduceBoundsTheTimeOfASend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := lines("hangs")
		hang := func(ctx context.Context, _ *outbox.Message) error { <-ctx.Done(); return ctx.Err() }
		for config, want := range map[*relay.ProducerConfig]time.Duration{nil: 30 * time.Second, {Timeout: time.Second}: time.Second} {
			source.lines[0].attempts = 0
			began := time.Now()
			result, err := relay.NewProducer(source, mapLine, hang, config).Produce(t.Context())
			if err != nil || result.Failed != 1 || time.Since(began) != want {
				t.Errorf("%+v, %v after %v, want %v", result, err, time.Since(began), want)
			}
		}
	})
}

func TestProducerReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := relay.NewProducer[*line](nil, nil, nil, &relay.ProducerConfig{Limit: 10_001, Timeout: -1}).Produce(t.Context())
	for _, part := range []string{"Limit is 10001", "Timeout is -1ns", "source is nil", "mapper is nil", "publish is nil"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

// holding is a publisher that answers when it is flushed.
type holding struct {
	mu       sync.Mutex
	inside   int
	overlap  bool
	held     []func(error)
	answer   error
	flushErr error
	silent   bool
}

func (h *holding) Publish(_ context.Context, _ *outbox.Message, done func(error)) {
	h.enter(1)
	time.Sleep(time.Millisecond)
	h.mu.Lock()
	h.held = append(h.held, done)
	h.mu.Unlock()
	h.enter(-1)
}

func (h *holding) enter(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inside += n
	h.overlap = h.overlap || h.inside > 1
}

func (h *holding) Flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silent || h.flushErr != nil {
		return h.flushErr
	}
	for _, done := range h.held {
		go done(h.answer)
	}
	h.held = nil
	return nil
}

func (h *holding) Close() error { return nil }

func TestWaitFlushesAndWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &holding{}
		publish := relay.Wait(h)
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := publish(t.Context(), &outbox.Message{}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if h.overlap {
			t.Error("calls of Publish overlapped")
		}
		h.answer = outbox.ErrInvalid
		if err := publish(t.Context(), &outbox.Message{}); !errors.Is(err, outbox.ErrInvalid) {
			t.Errorf("error %v, want the publisher's", err)
		}
	})
}

func TestWaitEndsWithItsContextOrAFailedFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lost := errors.New("connection lost")
		for want, h := range map[error]*holding{context.DeadlineExceeded: {silent: true}, lost: {flushErr: lost}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := relay.Wait(h)(ctx, &outbox.Message{})
			if !errors.Is(err, outbox.ErrUnavailable) || !errors.Is(err, want) {
				t.Errorf("error %v, want unavailable for %v", err, want)
			}
			for _, done := range h.held {
				done(nil) // late, and heard by nobody
			}
		}
	})
}

func TestEveryRunsAtOnceAndAfterEachInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began, ended := time.Now(), make(chan struct{})
		var at []time.Duration
		go func() {
			defer close(ended)
			relay.Every(ctx, 3*time.Second, func(context.Context) error {
				at = append(at, time.Since(began))
				time.Sleep(time.Second)
				return nil
			}, nil)
		}()
		time.Sleep(10 * time.Second) // between two steps
		cancel()
		<-ended
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("ended %v after the beginning, want 10s", took)
		}
		if want := []time.Duration{0, 4 * time.Second, 8 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("ran at %v, want %v", at, want)
		}
	})
}

func TestEverySurvivesErrorsAndPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var log strings.Builder
		n := 0
		relay.Every(ctx, time.Hour, func(context.Context) error {
			switch n++; n {
			case 1:
				return errors.New("first failed")
			case 2:
				panic("second panicked")
			case 4:
				cancel()
				return fmt.Errorf("told to stop: %w", ctx.Err())
			}
			return nil
		}, slog.New(slog.NewTextHandler(&log, nil)))
		if n != 4 {
			t.Errorf("%d steps", n)
		}
		for _, text := range []string{"first failed", "second panicked", "producer_test.go"} {
			if !strings.Contains(log.String(), text) {
				t.Errorf("the log lacks %q:\n%s", text, log.String())
			}
		}
		if strings.Contains(log.String(), "told to stop") {
			t.Error("the end was logged as an error")
		}
	})
}
