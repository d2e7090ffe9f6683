package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// eachReceivingDatabase runs a test with each database as inbox of a receiver.
func eachReceivingDatabase(t *testing.T, test func(t *testing.T, db database)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(testing.TB) database{
		"PostgreSQL": func(t testing.TB) database { return newPostgres(t) },
		"SQLite":     func(t testing.TB) database { return newSQLite(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			newEffects(t, db)
			test(t, db)
		})
	}
}

// startReceiver runs a worker that gets orders by HTTP, and returns its address.
func startReceiver(t testing.TB, db database, handle txHandler) string {
	t.Helper()
	r, err := webhook.NewReceiver(nil)
	must(t, err)
	w := worker.New(r, &worker.Config{Queue: "orders", Logger: quiet(), Retries: worker.Retries{Delays: []time.Duration{1500 * time.Millisecond}}})
	db.handleTx(w, "order.*", handle)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	runWorker(t, w)
	return server.URL
}

// eventModes are the content modes of the HTTP binding, each with what the official
// SDK makes of events in it.
var eventModes = map[string]func(ctx context.Context, url string, events ...cloudevents.Event) (*http.Request, error){
	"structured": func(ctx context.Context, url string, events ...cloudevents.Event) (*http.Request, error) {
		return cehttp.NewHTTPRequestFromEvent(binding.WithForceStructured(ctx), url, events[0])
	},
	"binary": func(ctx context.Context, url string, events ...cloudevents.Event) (*http.Request, error) {
		return cehttp.NewHTTPRequestFromEvent(binding.WithForceBinary(ctx), url, events[0])
	},
	"batched": func(ctx context.Context, url string, events ...cloudevents.Event) (*http.Request, error) {
		return cehttp.NewHTTPRequestFromEvents(ctx, url, events)
	},
}

// shopEvent is an event as another system sends it.
func shopEvent(t testing.TB, id, source, typ string, data any) cloudevents.Event {
	t.Helper()
	e := cloudevents.NewEvent()
	e.SetID(id)
	e.SetSource(source)
	e.SetType(typ)
	must(t, e.SetData(cloudevents.ApplicationJSON, data))
	return e
}

// eventAnswer is what a sender is told.
type eventAnswer struct {
	status           int
	retryAfter, body string
}

// postEvents sends events by the SDK and returns the answer.
func postEvents(t testing.TB, url, mode string, events ...cloudevents.Event) eventAnswer {
	t.Helper()
	req, err := eventModes[mode](context.Background(), url, events...)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return eventAnswer{resp.StatusCode, resp.Header.Get("Retry-After"), string(body)}
}

func wantAnswer(t testing.TB, a eventAnswer, status int) {
	t.Helper()
	if a.status != status {
		t.Errorf("answer %d %q, want %d", a.status, a.body, status)
	}
}

func wantEffects(t testing.TB, db database, want map[string]int) {
	t.Helper()
	if have := effects(t, db); fmt.Sprint(have) != fmt.Sprint(want) {
		t.Errorf("effects %v, want %v", have, want)
	}
}

// TestP15_OverHTTP: one id twice, one after the other and both at once, has one
// effect and 2xx both times; an id of another source is another event; a wrong type,
// and data that is none, are 400.
func TestP15_OverHTTP(t *testing.T) {
	eachReceivingDatabase(t, func(t *testing.T, db database) {
		var runs atomic.Int64
		url := startReceiver(t, db, count(&runs))
		want := map[string]int{}
		for mode := range eventModes {
			e := shopEvent(t, mode, "/shop", orderPlaced, order{Key: "k"})
			wantAnswer(t, postEvents(t, url, mode, e), http.StatusNoContent)
			wantAnswer(t, postEvents(t, url, mode, e), http.StatusNoContent)
			wantAnswer(t, postEvents(t, url, mode, shopEvent(t, mode, "/market", orderPlaced, order{})), http.StatusNoContent)
			want["/shop "+mode], want["/market "+mode] = 1, 1

			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					wantAnswer(t, postEvents(t, url, mode, shopEvent(t, "both", "/"+mode, orderPlaced, order{})), http.StatusNoContent)
				})
			}
			both.Wait()
			want["/"+mode+" both"] = 1

			wantAnswer(t, postEvents(t, url, mode, shopEvent(t, "wrong", "/shop", "invoice.sent", order{})), http.StatusBadRequest)
			wantAnswer(t, postEvents(t, url, mode, shopEvent(t, "wrong", "/shop", orderPlaced, "no order")), http.StatusBadRequest)
		}
		first, second := shopEvent(t, "twice", "/batch", orderPlaced, order{}), shopEvent(t, "other", "/batch", orderPlaced, order{})
		wantAnswer(t, postEvents(t, url, "batched", first, second, first), http.StatusNoContent)
		want["/batch twice"], want["/batch other"] = 1, 1
		wantEffects(t, db, want)
		if int(runs.Load()) != len(want) {
			t.Errorf("%d runs, want %d", runs.Load(), len(want))
		}
	})
}

// TestP16_OverHTTP: when the effect fails it is undone, the sender is told when to
// come again, and then it succeeds; there is no 2xx without an effect.
func TestP16_OverHTTP(t *testing.T) {
	eachReceivingDatabase(t, func(t *testing.T, db database) {
		var runs atomic.Int64
		var failed sync.Map // ids
		url := startReceiver(t, db, func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
			if err := count(&runs)(ctx, tx, d); err != nil {
				return err
			}
			if _, again := failed.LoadOrStore(d.ID, true); !again || d.Payload.Key == "never" {
				return errNoLuck
			}
			return nil
		})
		want := map[string]int{}
		wantRetry := func(a eventAnswer) {
			t.Helper()
			wantAnswer(t, a, http.StatusServiceUnavailable)
			if a.retryAfter != "2" {
				t.Errorf("Retry-After: %q, want the worker's 1.5 s, rounded up", a.retryAfter)
			}
			wantEffects(t, db, want)
		}
		for mode := range eventModes {
			never := shopEvent(t, "never", "/"+mode, orderPlaced, order{Key: "never"})
			wantRetry(postEvents(t, url, mode, never))
			e := shopEvent(t, mode, "/shop", orderPlaced, order{Key: "k"})
			wantRetry(postEvents(t, url, mode, e))
			want["/shop "+mode] = 1
			wantAnswer(t, postEvents(t, url, mode, e), http.StatusNoContent)
			wantEffects(t, db, want)
			wantRetry(postEvents(t, url, mode, never))
		}
		// Of a batch, what succeeded is not undone by what fails.
		good, bad := shopEvent(t, "good", "/batch", orderPlaced, order{}), shopEvent(t, "bad", "/batch", orderPlaced, order{})
		failed.Store("/batch good", true)
		want["/batch good"] = 1
		wantRetry(postEvents(t, url, "batched", bad, good))
		want["/batch bad"] = 1
		wantAnswer(t, postEvents(t, url, "batched", bad, good), http.StatusNoContent)
		wantEffects(t, db, want)
	})
}

// TestP16_OverHTTPRetriedByTheSDK: the answer is one that the official SDK's own
// retries take up.
func TestP16_OverHTTPRetriedByTheSDK(t *testing.T) {
	t.Parallel()
	db := newPostgres(t)
	newEffects(t, db)
	var runs atomic.Int64
	url := startReceiver(t, db, func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
		if err := count(&runs)(ctx, tx, d); err != nil || runs.Load() > 2 {
			return err
		}
		return errNoLuck
	})
	client, err := cloudevents.NewClientHTTP(cloudevents.WithTarget(url))
	must(t, err)
	ctx := cloudevents.ContextWithRetriesConstantBackoff(t.Context(), 10*time.Millisecond, 10)
	if result := client.Send(ctx, shopEvent(t, "1", "/shop", orderPlaced, order{})); !cloudevents.IsACK(result) {
		t.Errorf("result %v, want an acknowledgement", result)
	}
	wantEffects(t, db, map[string]int{"/shop 1": 1})
	if runs.Load() != 3 {
		t.Errorf("%d runs, want 3", runs.Load())
	}
}

// receiverChild is a process that takes orders by HTTP and writes them down. Now and
// then its handler fails, and kills the process between the commit and the answer.
type receiverChild struct {
	Address string // to listen on
	Secret  string
}

func (c *childConfig) runReceiver(ctx context.Context) (err error) {
	db, closeDB, err := openDatabase(c.Database)
	if err != nil {
		return err
	}
	defer closeDB()
	r, err := webhook.NewReceiver(&webhook.ReceiverConfig{Secrets: []string{c.Receiver.Secret}})
	if err != nil {
		return err
	}
	w := worker.New(r, &worker.Config{Queue: "orders", Logger: quiet(), Retries: worker.Retries{Delays: []time.Duration{0}}})
	db.handleTx(w, orderPlaced, func(_ context.Context, tx transaction, d *worker.Delivery[order]) error {
		o := d.Payload
		if err := tx.exec(`INSERT INTO arrivals (id, key, n) VALUES ($1, $2, $3)`, o.ID, o.Key, o.N); err != nil {
			return err
		}
		if rand.IntN(20) == 0 {
			return errNoLuck
		}
		return nil
	}, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			err := next(ctx, d)
			if err == nil && rand.IntN(200) == 0 {
				killSelf()
				select {}
			}
			return err
		}
	}))
	listener, err := net.Listen("tcp", c.Receiver.Address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: patience}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	go func() {
		<-w.Ready()
		fmt.Println(listener.Addr())
	}()
	err = errors.Join(w.Run(ctx), server.Close())
	if ended := <-served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// TestOutboxToInboxOverHTTP: from a commit to the effect of a handler in another
// process, which is killed again and again: nothing is lost, each effect is there
// once, and those of a key are in their order.
func TestOutboxToInboxOverHTTP(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		open   func(testing.TB) database
		serial string
		mode   webhook.Mode
	}{
		"PostgreSQL, structured": {func(t testing.TB) database { return newPostgres(t) }, "BIGSERIAL", webhook.Structured},
		"PostgreSQL, batched":    {func(t testing.TB) database { return newPostgres(t) }, "BIGSERIAL", webhook.Batched},
		"SQLite, binary":         {func(t testing.TB) database { return newSQLite(t) }, "INTEGER", webhook.Binary},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := test.open(t)
			execute(t, db, `CREATE TABLE arrivals (seq `+test.serial+` PRIMARY KEY, id TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL)`)
			receiver := startReceiverProcess(t, db)
			p, err := webhook.NewPublisher("http://"+receiver.address(), &webhook.PublisherConfig{
				Mode: test.mode, Secrets: []string{receiver.config.Secret}, Timeout: 5 * time.Second,
			})
			must(t, err)
			st, closeStore, err := openStore(db.databaseURL())
			must(t, err)
			r := runRelay(t, st, p, relay.Config{
				RefusedBackoff: 20 * time.Millisecond, MaxRefusedBackoff: 100 * time.Millisecond, MaxAttempts: 1000,
			}, closeStore)
			s := &system{database: db}
			const keys, each, kills = 20, 20, 4
			var placing sync.WaitGroup
			placing.Go(func() {
				for i := range each {
					if err := s.tryOrders(strconv.Itoa(i), keys, 1); err != nil {
						t.Error(err)
					}
				}
			})
			for i := range kills {
				receiver.awaitArrivals(keys * each * (i + 1) / (kills + 2))
				receiver.kill()
			}
			placing.Wait()
			receiver.awaitArrivals(keys * each)
			receiver.await("an empty outbox", func() (bool, string) {
				n := len(pending(t, db))
				return n == 0, fmt.Sprint(n, " rows")
			})
			r.alive()
			receiver.judge()
		})
	}
}

// receiverProcess is a receiver that is started again when it has ended.
type receiverProcess struct {
	t      testing.TB
	db     database
	config receiverChild
	child  *child
	kills  int
}

func startReceiverProcess(t testing.TB, db database) *receiverProcess {
	t.Helper()
	r := &receiverProcess{t: t, db: db, config: receiverChild{
		Address: "127.0.0.1:0", Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
	}}
	r.start()
	r.config.Address = r.child.line
	return r
}

func (r *receiverProcess) address() string { return r.config.Address }

func (r *receiverProcess) start() {
	r.t.Helper()
	r.child = startChild(r.t, &childConfig{Database: r.db.databaseURL(), Receiver: &r.config})
}

func (r *receiverProcess) kill() {
	r.t.Helper()
	r.child.kill()
	r.kills++
	r.start()
}

// await is eventually, and starts the process again when it has killed itself.
func (r *receiverProcess) await(what string, done func() (ok bool, state string)) {
	r.t.Helper()
	eventually(r.t, what, func() (bool, string) {
		if !isOpen(r.child.ended) {
			r.kill()
		}
		return done()
	})
}

func (r *receiverProcess) awaitArrivals(n int) {
	r.t.Helper()
	r.await(fmt.Sprint(n, " arrivals"), func() (bool, string) {
		var have int
		must(r.t, r.db.sql().QueryRowContext(context.Background(), `SELECT count(*) FROM arrivals`).Scan(&have))
		return have >= n, fmt.Sprint(have)
	})
}

// judge compares what has arrived with what was committed.
func (r *receiverProcess) judge() {
	r.t.Helper()
	rows, err := r.db.sql().QueryContext(context.Background(), `SELECT id, key, n FROM arrivals ORDER BY seq`)
	must(r.t, err)
	defer rows.Close()
	committed, arrived, last := committedOrders(r.t, r.db), map[order]int{}, map[string]int{}
	for rows.Next() {
		var o order
		must(r.t, rows.Scan(&o.ID, &o.Key, &o.N))
		if arrived[o]++; arrived[o] > 1 || !committed[o] {
			r.t.Errorf("%+v has %d effects; committed: %t", o, arrived[o], committed[o])
		}
		if o.N != last[o.Key]+1 {
			r.t.Errorf("order %d of key %s came after %d", o.N, o.Key, last[o.Key])
		}
		last[o.Key] = o.N
	}
	must(r.t, rows.Err())
	if len(arrived) != len(committed) {
		r.t.Errorf("%d of %d orders have arrived", len(arrived), len(committed))
	}
	r.t.Logf("%d orders, %d kills", len(arrived), r.kills)
}
