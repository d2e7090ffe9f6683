package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

// count is a handler that writes an order, and how often it was run.
func count(runs *atomic.Int64) txHandler {
	return func(_ context.Context, tx transaction, d *worker.Delivery[order]) error {
		runs.Add(1)
		return tx.exec(`INSERT INTO effects (id, key) VALUES ($1, $2)`, d.ID, d.Payload.Key)
	}
}

// newEffects makes the table of the handlers' effects. An effect may be there more
// than once.
func newEffects(t testing.TB, db database) {
	t.Helper()
	execute(t, db, `CREATE TABLE effects (id TEXT NOT NULL, key TEXT NOT NULL)`)
}

// effects returns how many effects there are of each message id.
func effects(t testing.TB, db database) map[string]int {
	t.Helper()
	rows, err := db.sql().QueryContext(context.Background(), `SELECT id, count(*) FROM effects GROUP BY id`)
	must(t, err)
	defer rows.Close()
	counts := map[string]int{}
	for rows.Next() {
		var id string
		var n int
		must(t, rows.Scan(&id, &n))
		counts[id] = n
	}
	must(t, rows.Err())
	return counts
}

// send publishes messages directly, as another system does: the id may repeat.
func (s *system) send(t testing.TB, msgs ...outbox.Message) {
	t.Helper()
	p, err := openPublisher(s.address)
	must(t, err)
	defer p.Close()
	answers := make(chan error, len(msgs))
	for i := range msgs {
		p.Publish(t.Context(), &msgs[i], func(err error) { answers <- err })
	}
	if f, ok := p.(outbox.Flusher); ok {
		must(t, f.Flush())
	}
	for range msgs {
		must(t, <-answers)
	}
}

// twice returns a message with an id of another system's, which the broker does
// not know as one, and a copy of it.
func twice(id string) []outbox.Message {
	m := outbox.Message{
		Topic: "order.placed", Key: "k", ContentType: outbox.ContentTypeJSON, Payload: []byte(`{"Key":"k"}`),
		Headers: map[string]string{"cap-msg-id": id},
	}
	return []outbox.Message{m, m}
}

var capIDs = worker.IDFromHeaders("cap-msg-id")

// end awaits a message that is sent after all others, in a queue of one key.
func (s *system) end(t testing.TB, ended <-chan struct{}) {
	t.Helper()
	s.send(t, outbox.Message{ID: uuid.NewString(), Topic: "end", Key: "k"})
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the last message has not come")
	}
}

// handleEnd registers a handler that closes the channel.
func handleEnd(w *worker.Worker) <-chan struct{} {
	ended := make(chan struct{}, 10)
	worker.Handle(w, "end", func(context.Context, *worker.Delivery[[]byte]) error {
		ended <- struct{}{}
		return nil
	})
	return ended
}

func TestD12_SameIDTwice(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		var runs atomic.Int64
		w := s.newWorker(t, worker.Config{Queue: "orders", MessageID: capIDs})
		s.handleTx(w, "order.*", count(&runs))
		ended := handleEnd(w)
		stop := runWorker(t, w)
		s.send(t, twice("1")...)
		s.end(t, ended)
		stop()
		if n := effects(t, s)["1"]; n != 1 || runs.Load() != 1 {
			t.Errorf("%d effects of %d runs, want one", n, runs.Load())
		}
		// Both were acknowledged: another worker gets none of them.
		w = s.newWorker(t, worker.Config{Queue: "orders"})
		rest := newRecorder(t)
		worker.Handle(w, "order.*", rest.handle)
		ended = handleEnd(w)
		runWorker(t, w)
		s.end(t, ended)
		if n := len(rest.deliveries()); n != 0 {
			t.Errorf("%d messages were left", n)
		}
	})
}

func TestD13_InboxRowSharesTheTransaction(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		var runs atomic.Int64
		w := s.newWorker(t, worker.Config{Queue: "orders", MessageID: capIDs, Retries: worker.Retries{Delays: []time.Duration{0, 0}}})
		between := make(chan int, 10)
		s.handleTx(w, "order.*", func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
			between <- len(effects(t, s))
			if err := count(&runs)(ctx, tx, d); err != nil {
				return err
			}
			if err := tx.emitWith(ctx, outbox.Event{Topic: "order.counted"}); err != nil {
				return err
			}
			switch d.Attempt {
			case 1:
				return errNoLuck
			case 2:
				panic("no luck")
			}
			return nil
		})
		ended := handleEnd(w)
		runWorker(t, w)
		s.send(t, twice("1")...)
		eventually(t, "three runs", func() (bool, string) { return runs.Load() >= 3, fmt.Sprint(runs.Load(), " runs") })
		s.end(t, ended)
		if n := effects(t, s)["1"]; n != 1 {
			t.Errorf("%d effects, want one", n)
		}
		for range 3 {
			if n := <-between; n != 0 {
				t.Error("a failed attempt has left its effect")
			}
		}
		if n := len(pending(t, s)); n != 1 {
			t.Errorf("%d emitted, want 1: those of the failed attempts were rolled back", n)
		}
	})
}

// TestD14_CrashBetweenCommitAndAcknowledgement kills the worker's process at that
// point.
func TestD14_CrashBetweenCommitAndAcknowledgement(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		w := s.newWorker(t, worker.Config{Queue: "orders"}) // declares the queue
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error { return nil })
		runWorker(t, w)()
		s.send(t, twice("1")[0])
		child := s.startWorkerProcess(t, workerChild{Queue: "orders", DieAfterCommit: true})
		child.awaitEnd(t)
		if n := effects(t, s)["1"]; n != 1 {
			t.Fatalf("%d effects when the process had died, want 1", n)
		}
		var runs, seen atomic.Int64
		w = s.newWorker(t, worker.Config{Queue: "orders", MessageID: capIDs, Middleware: []worker.Middleware{func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
				seen.Add(1)
				return next(ctx, d)
			}
		}}})
		s.handleTx(w, "order.*", count(&runs))
		ended := handleEnd(w)
		runWorker(t, w)
		eventually(t, "the redelivery", func() (bool, string) { return seen.Load() > 0, "none" })
		s.end(t, ended)
		if n := effects(t, s)["1"]; n != 1 || runs.Load() != 0 {
			t.Errorf("%d effects, and %d runs in the second process, want 1 and none", n, runs.Load())
		}
	})
}

func TestD25_PassingDatabaseErrors(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		var runs atomic.Int64
		w := s.newWorker(t, worker.Config{
			Queue: "orders", MessageID: capIDs, DatabaseTimeout: 3 * time.Second,
			Retries: worker.Retries{Off: true},
		})
		s.impatient(t).handleTx(w, "order.*", count(&runs))
		runWorker(t, w)
		dead := s.deadLetters(t, "orders")

		// The lock passes within the time-out: one attempt.
		unlock := s.lockEffects(t)
		s.send(t, twice("1")[0])
		time.Sleep(time.Second)
		unlock()
		eventually(t, "the effect", func() (bool, string) { n := effects(t, s)["1"]; return n == 1, fmt.Sprint(n, " effects") })

		// The lock does not pass: the attempt is used up, and nothing is lost.
		unlock = s.lockEffects(t)
		s.send(t, twice("2")[0])
		letter := awaitDead(t, dead, 1)[0]
		unlock()
		if letter.Failure.Attempts != 1 || letter.Headers["cap-msg-id"] != "2" || !strings.Contains(letter.Failure.Reason, "the database failed for 3s") {
			t.Errorf("dead letter %q after %+v, want 2 after 1 attempt", letter.Headers, letter.Failure)
		}
		if n := effects(t, s)["2"]; n != 0 {
			t.Errorf("%d effects of the dead one", n)
		}
	})
}

// lockEffects keeps others from writing effects until unlock is called.
func (s *system) lockEffects(t testing.TB) (unlock func()) {
	t.Helper()
	tx, err := s.begin()
	must(t, err)
	if strings.HasPrefix(s.databaseURL(), "postgres") {
		must(t, tx.exec(`LOCK TABLE effects IN ACCESS EXCLUSIVE MODE`))
	} else {
		must(t, tx.exec(`DELETE FROM effects WHERE id = 'nobody'`))
	}
	return func() { must(t, tx.rollback()) }
}

// cloudEvent is a message as another system sends it, in structured mode.
func cloudEvent(id string, data any) outbox.Message {
	event, err := json.Marshal(map[string]any{"specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "data": data})
	if err != nil {
		panic(err)
	}
	return outbox.Message{Topic: "order.placed", Key: "k", ContentType: "application/cloudevents+json", Payload: event}
}

// TestP15_ReceiverGetsOneIDTwice: the part of the queue; that of HTTP is apart.
func TestP15_ReceiverGetsOneIDTwice(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		var runs atomic.Int64
		w := s.newWorker(t, worker.Config{Queue: "orders", MessageID: worker.IDFromCloudEvent})
		s.handleTx(w, "order.*", func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
			d.Payload.Key = "k"
			return count(&runs)(ctx, tx, d)
		})
		ended := handleEnd(w)
		runWorker(t, w)
		dead := s.deadLetters(t, "orders")
		wrong := cloudEvent("2", nil)
		wrong.Payload = []byte(`["no", "event"]`)
		wrong.ID = "wrong"
		s.send(t, cloudEvent("1", order{}), cloudEvent("1", order{}), wrong)
		s.end(t, ended)
		if n := effects(t, s)["/shop 1"]; n != 1 || runs.Load() != 1 {
			t.Errorf("%d effects of %d runs, want one", n, runs.Load())
		}
		if letter := awaitDead(t, dead, 1)[0]; letter.Failure.Attempts != 1 || letter.ID != "wrong" {
			t.Errorf("dead letter %s after %+v, want the wrong one after 1 attempt", letter.ID, letter.Failure)
		}
	})
}

func TestP16_ReceiversEffectFails(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		newEffects(t, s)
		var runs atomic.Int64
		w := s.newWorker(t, worker.Config{
			Queue: "orders", MessageID: worker.IDFromCloudEvent, Retries: worker.Retries{Delays: []time.Duration{50 * time.Millisecond}},
		})
		s.handleTx(w, "order.*", func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
			err := count(&runs)(ctx, tx, d)
			if d.ID == "/shop never" || d.Attempt == 1 {
				err = errors.Join(err, errNoLuck)
			}
			return err
		})
		runWorker(t, w)
		dead := s.deadLetters(t, "orders")
		s.send(t, cloudEvent("once", order{}), cloudEvent("never", order{}))
		awaitDead(t, dead, 1)
		eventually(t, "the effect", func() (bool, string) {
			have := effects(t, s)
			return have["/shop once"] == 1 && len(have) == 1, fmt.Sprint(have)
		})
		if runs.Load() != 4 {
			t.Errorf("%d runs, want 2 of each", runs.Load())
		}
	})
}

// killSelf ends this process as a crash does.
func killSelf() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) }
