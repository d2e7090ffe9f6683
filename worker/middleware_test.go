package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

// tracing is middleware that writes down what passes it.
func tracing(r *record, name string) worker.Middleware {
	return func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			r.add(name + " in")
			err := next(ctx, d)
			r.add(fmt.Sprintf("%s out %v", name, err))
			return err
		}
	}
}

func TestMiddlewareIsAroundTheHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got record
		b := newBench(t, worker.Config{Concurrency: 1, Middleware: []worker.Middleware{tracing(&got, "1"), tracing(&got, "2")}})
		worker.Handle(b.worker, "a", func(_ context.Context, d *worker.Delivery[int]) error {
			got.add(fmt.Sprint("handler ", d.Payload, " ", d.Handler))
			return nil
		}, worker.WithMiddleware(tracing(&got, "3"), func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
				changed := *d
				changed.Payload = append([]byte("4"), d.Payload...)
				return next(ctx, &changed)
			}
		}))
		b.start()
		b.send(outbox.Message{ID: "1", Topic: "a", Payload: []byte("2")})
		synctest.Wait()
		b.endClean()
		want := []string{"1 in", "2 in", "3 in", "handler 42 a", "3 out <nil>", "2 out <nil>", "1 out <nil>"}
		if !slices.Equal(got.all(), want) {
			t.Errorf("got %q, want %q", got.all(), want)
		}
	})
}

func TestMiddlewareSeesPanicsAndWhatNoHandlerTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got record
		seen := func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
				err := next(ctx, d)
				var p *outbox.PanicError
				got.add(fmt.Sprintf("%s: panic %v, undeliverable %v, handler %q", d.Topic, errors.As(err, &p) && len(p.Stack) > 0, errors.Is(err, worker.ErrUndeliverable), d.Handler))
				if d.Topic == "swallowed" {
					return nil
				}
				if d.Topic == "broken" {
					panic("middleware")
				}
				return err
			}
		}
		b := newBench(t, worker.Config{Concurrency: 1, Middleware: []worker.Middleware{seen}, Retries: worker.Retries{Off: true}})
		for _, topic := range []string{"panics", "decodes", "broken"} {
			worker.Handle(b.worker, topic, func(context.Context, *worker.Delivery[int]) error { panic("no luck") })
		}
		b.broker.Declare(queueName, "#")
		b.start()
		for _, topic := range []string{"panics", "decodes", "unmatched", "swallowed", "broken"} {
			payload := "1"
			if topic == "decodes" {
				payload = "{"
			}
			b.send(outbox.Message{ID: topic, Topic: topic, Key: "k", Payload: []byte(payload)})
		}
		synctest.Wait()
		b.endClean()
		want := []string{
			`panics: panic true, undeliverable false, handler "panics"`, `decodes: panic false, undeliverable true, handler "decodes"`,
			`unmatched: panic false, undeliverable true, handler ""`, `swallowed: panic false, undeliverable true, handler ""`,
			`broken: panic true, undeliverable false, handler "broken"`,
		}
		if !slices.Equal(got.all(), want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got.all(), "\n"), strings.Join(want, "\n"))
		}
		var dead []string
		for _, d := range b.broker.DeadLetters(queueName) {
			dead = append(dead, d.Message.ID)
		}
		if !slices.Equal(dead, []string{"panics", "decodes", "unmatched", "broken"}) {
			t.Errorf("dead letters %q", dead)
		}
	})
}

func TestTimeoutEndsTheHandlersContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Retries: worker.Retries{Off: true}})
		begin := time.Now()
		handler := func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
			if d.Topic == "late" {
				return nil
			}
			return ctx.Err()
		}
		for _, topic := range []string{"slow", "late"} {
			worker.Handle(b.worker, topic, handler, worker.WithTimeout(time.Second))
		}
		worker.Handle(b.worker, "free", handler)
		b.start()
		for _, topic := range []string{"slow", "late", "free"} {
			b.send(text(topic, topic, ""))
		}
		time.Sleep(time.Minute)
		b.endClean()
		dead := b.broker.DeadLetters(queueName)
		if len(dead) != 1 || dead[0].Message.ID != "slow" || !strings.Contains(dead[0].Failure.Reason, "1s, its time-out") || dead[0].Failure.LastAt.Sub(begin) != time.Second {
			t.Errorf("dead letters %+v, want slow after 1s", dead)
		}
	})
}

func TestConcurrencyOfOneHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 5})
		var mu sync.Mutex
		running, most := map[string]int{}, map[string]int{}
		handler := func(_ context.Context, d *worker.Delivery[[]byte]) error {
			mu.Lock()
			running[d.Topic]++
			running["all"]++
			most[d.Topic] = max(most[d.Topic], running[d.Topic])
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running[d.Topic]--
			running["all"]--
			mu.Unlock()
			if d.ID == "7" && d.Attempt == 1 {
				return errNoLuck
			}
			return nil
		}
		worker.Handle(b.worker, "one", handler, worker.WithConcurrency(1))
		worker.Handle(b.worker, "two", handler, worker.WithConcurrency(2))
		worker.Handle(b.worker, "any", handler)
		b.start()
		begin := time.Now()
		for i := range 20 {
			b.send(text(fmt.Sprint(i), "one", ""))
		}
		for i := range 20 {
			b.send(text(fmt.Sprint(i), "two", fmt.Sprint(i%3)))
		}
		for i := range 20 {
			b.send(text(fmt.Sprint(i), "any", ""))
		}
		busy := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return running["all"] > 0
		}
		for len(b.left())+len(b.broker.Waiting(queueName)) > 0 || busy() {
			time.Sleep(100 * time.Millisecond)
			if time.Since(begin) > time.Hour {
				t.Fatal("not all is handled")
			}
		}
		b.endClean()
		if most["one"] != 1 || most["two"] != 2 || most["any"] < 3 {
			t.Errorf("ran at once: %v, want 1, 2 and more", most)
		}
		if d := time.Since(begin); d > 35*time.Second {
			t.Errorf("took %s: a slot was not used", d)
		}
	})
}

func TestStopGivesBackWhatWaitsForItsHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 5})
		worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			time.Sleep(time.Second)
			return nil
		}, worker.WithConcurrency(1))
		b.start()
		for i := range 4 {
			b.send(text(fmt.Sprint(i), "a", fmt.Sprint(i%2)))
		}
		synctest.Wait()
		b.endClean()
		if !slices.Equal(b.left(), []string{"1", "2", "3"}) {
			t.Errorf("left %q, want 1, 2 and 3", b.left())
		}
	})
}

func TestWhatAHandlerEmitsContinuesTheMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		ob := outbox.New(memstore.New(nil))
		var got []outbox.Message
		worker.Handle(b.worker, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			msgs, err := ob.Prepare(ctx, outbox.Event{Topic: "next"})
			got = append(got, msgs...)
			return err
		})
		b.start()
		b.send(outbox.Message{ID: "m1", Topic: "a", Key: "k", Headers: map[string]string{"traceparent": "00-1-2-01"}})
		b.send(outbox.Message{ID: "m2", Topic: "a", Key: "k", Headers: map[string]string{"correlation-id": "c"}})
		synctest.Wait()
		b.endClean()
		want := []string{"m1 m1 00-1-2-01", "c m2 "}
		for i, m := range got {
			if s := fmt.Sprintf("%s %s %s", m.CorrelationID(), m.CausationID(), m.Headers["traceparent"]); s != want[i] {
				t.Errorf("emitted with %s, want %s", s, want[i])
			}
		}
		if len(got) != 2 {
			t.Errorf("%d emitted", len(got))
		}
	})
}

func TestStrictHandlerRefusesUnknownFields(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 1})
		var got record
		handler := func(_ context.Context, d *worker.Delivery[user]) error {
			got.add(d.Topic + " " + d.Payload.Name)
			return nil
		}
		worker.Handle(b.worker, "strict", handler, worker.Strict())
		worker.Handle(b.worker, "lax", handler)
		b.start()
		for _, topic := range []string{"strict", "lax"} {
			for _, payload := range []string{`{"name":"known"}`, `{"name":"unknown","nickname":"n"}`} {
				b.send(outbox.Message{ID: topic, Topic: topic, Key: "k", Payload: []byte(payload)})
			}
		}
		synctest.Wait()
		b.endClean()
		if want := []string{"strict known", "lax known", "lax unknown"}; !slices.Equal(got.all(), want) {
			t.Errorf("handled %q, want %q", got.all(), want)
		}
		if dead := b.broker.DeadLetters(queueName); len(dead) != 1 || !strings.Contains(dead[0].Failure.Reason, `unknown field "nickname"`) {
			t.Errorf("dead %+v", dead)
		}
	})
}
