package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// failFor refuses the messages of a topic.
func failFor(topic string) func(m *outbox.Message) error {
	return func(m *outbox.Message) error {
		if m.Topic == topic {
			return errNoLuck
		}
		return nil
	}
}

func TestE07_MaximumOfAttempts(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		runs.fail = failFor("failing")
		s.emit(t, outbox.Event{Topic: "failing", Key: "a"}, outbox.Event{Topic: "next", Key: "a"})
		config := atOnce(0)
		runs.runUntil(4, config)
		if got := topics(runs.calls); !slices.Equal(got, []string{"failing", "failing", "failing", "next"}) {
			t.Fatalf("the calls were for %q, want three for the failing one, and then for its successor", got)
		}
		r.await(1)
		runs.want(config, relay.Result{}) // skipped from now on
		s.wantRows(t, 0)
		dead := single(t, runs.store, store.Dead)
		if dead.Topic != "failing" || dead.Attempts != 3 || dead.Reason != store.Exhausted {
			t.Errorf("the dead letter is %+v", dead)
		}
	})
}

func TestE08_AttemptsAreSetOrRefused(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, _ := s.newRuns(t)
		runs.fail = failFor("failing")
		for given, want := range map[int]int{0: 3, 1: 1, 5: 5} { // 0 is the default
			runs.calls = nil
			s.emit(t, outbox.Event{Topic: "failing"})
			eventually(t, "a dead letter", func() (bool, string) {
				result, _ := runs.run(atOnce(given))
				return result.Dead == 1, fmt.Sprintf("%d calls", len(runs.calls))
			})
			if n := len(runs.calls); n != want {
				t.Errorf("MaxAttempts %d: %d attempts, want %d", given, n, want)
			}
		}
		runs.calls = nil
		s.emit(t, outbox.Event{Topic: "a"})
		_, err := relay.RunOnce(t.Context(), runs.store, runs.publish, atOnce(-1))
		wantFault(t, err)
		p := outbox.PublishFunc(runs.publish)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		wantFault(t, relay.New(runs.store, p, &relay.Config{MaxAttempts: -1}).Run(ctx))
		if len(runs.calls) != 0 {
			t.Errorf("with MaxAttempts -1 the calls were for %q", topics(runs.calls))
		}
		// Who writes 0 into a configuration means something by it.
		for _, value := range []string{"0", "-1"} {
			cmd := exec.Command("go", "run", ".", "relay", "--database-url", s.databaseURL(), "--broker-url", s.brokerURL(), "--relay-max-attempts", value)
			cmd.Dir = "../cmd/outbox"
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), fmt.Sprintf("relay.max_attempts %q", value)) {
				t.Errorf("with relay.max_attempts %s the program printed %s", value, out)
			}
		}
	})
}

// wantFault checks that an error names the setting and its value.
func wantFault(t *testing.T, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "MaxAttempts is -1, must be 1 to") {
		t.Errorf("MaxAttempts -1: the error is %v, want one that names it", err)
	}
}

func TestE09_FailsOnceThenSucceeds(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		failed := map[string]bool{}
		runs.fail = func(m *outbox.Message) error {
			if failed[m.Topic] {
				return nil
			}
			failed[m.Topic] = true
			return errNoLuck
		}
		s.emit(t, outbox.Event{Topic: "late", Key: "a"})
		late := &relay.OnceConfig{RefusedBackoff: time.Hour, MaxRefusedBackoff: time.Hour}
		runs.want(late, relay.Result{Taken: 1, Failed: 1}, "late")
		runs.want(late, relay.Result{}) // it is not due
		if row := single(t, runs.store, store.Pending); row.Attempts != 1 || row.LastError == "" || row.RetryIn <= 0 {
			t.Errorf("the message is stored as %+v, want one attempt and a wait", row)
		}
		s.emit(t, outbox.Event{Topic: "soon", Key: "b"})
		runs.runUntil(3, atOnce(0))
		if got := topics(runs.calls); !slices.Equal(got, []string{"late", "soon", "soon"}) {
			t.Errorf("the calls were for %q", got)
		}
		if d := r.await(1)[0]; d.Topic != "soon" {
			t.Errorf("delivered was %q", d.Topic)
		}
		s.wantRows(t, 1)
	})
}

func TestE12_ErrorsAndPanicsStayInTheRun(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		runs.fail = func(m *outbox.Message) error {
			switch m.Topic {
			case "error":
				return errNoLuck
			case "panic":
				panic("out of luck")
			}
			return nil
		}
		s.emit(t, outbox.Event{Topic: "error", Key: "a"}, outbox.Event{Topic: "panic", Key: "b"}, outbox.Event{Topic: "good", Key: "c"})
		runs.want(nil, relay.Result{Taken: 3, Sent: 1, Failed: 2}, "error", "panic", "good")
		r.await(1)
		for i, want := range []pendingRow{{topic: "error", lastError: errNoLuck.Error()}, {topic: "panic", lastError: "panic: out of luck"}} {
			row := pending(t, s)[i]
			if row.topic != want.topic || row.attempts != 1 || !strings.Contains(row.lastError, want.lastError) {
				t.Errorf("row %d is %+v, want one attempt of %+v", i, row, want)
			}
		}
	})
}

// invoicePaid is the filter of the seed.
func invoicePaid(e *outbox.Event) bool { return strings.Contains(e.Type, "InvoicePaid") }

func TestE13_FilterAtTheEmit(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		s.emitWith(t, []outbox.Option{outbox.WithFilter(invoicePaid)},
			outbox.Event{Topic: "opened", Type: "InvoiceOpened"},
			outbox.Event{Topic: "paid", Type: "InvoicePaid"},
			outbox.Event{Topic: "closed", Type: "InvoiceClosed"})
		if rows := pending(t, s); len(rows) != 1 || rows[0].topic != "paid" {
			t.Errorf("the outbox has %+v, want the one that the filter lets through", rows)
		}
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "paid")
		r.await(1)
		s.emitWith(t, []outbox.Option{outbox.WithFilter(invoicePaid)}, outbox.Event{Topic: "opened", Type: "InvoiceOpened"})
		s.wantRows(t, 0)
	})
}

func TestE14_FilterChangesLater(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		with := func(filter func(*outbox.Event) bool) []outbox.Option {
			return []outbox.Option{outbox.WithFilter(filter)}
		}
		s.emitWith(t, with(invoicePaid), outbox.Event{Topic: "first", Type: "InvoicePaid"})
		never := func(*outbox.Event) bool { return false }
		s.emitWith(t, with(never), outbox.Event{Topic: "second", Type: "InvoicePaid"})
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "first")
		if d := r.await(1)[0]; d.Topic != "first" {
			t.Errorf("delivered was %q", d.Topic)
		}
	})
}

func TestE15_SeveralTenants(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		emit := func(round string) (all []string) {
			for i, tenant := range []string{"north", "south", "", "north", "south"} {
				topic := fmt.Sprintf("%s.%d", round, i)
				s.emit(t, outbox.Event{Topic: topic, Tenant: tenant, Key: fmt.Sprint("stream-", i)})
				all = append(all, topic)
			}
			return all
		}
		all := emit("all")
		runs.want(nil, relay.Result{Taken: 5, Sent: 5}, all...)
		tenants := map[string]string{"all.0": "north", "all.1": "south", "all.3": "north", "all.4": "south"}
		for _, d := range r.await(5) {
			if d.Tenant != tenants[d.Topic] {
				t.Errorf("%s was delivered with the tenant %q, want %q", d.Topic, d.Tenant, tenants[d.Topic])
			}
		}
		for _, m := range runs.calls {
			if m.Tenant != tenants[m.Topic] {
				t.Errorf("the call for %s has the tenant %q, want %q", m.Topic, m.Tenant, tenants[m.Topic])
			}
		}
		emit("bound")
		for tenant, want := range map[string][]string{"south": {"bound.1", "bound.4"}, "": {"bound.2"}, "west": nil} {
			runs.want(&relay.OnceConfig{Tenant: &tenant}, relay.Result{Taken: len(want), Sent: len(want)}, want...)
		}
		s.wantRows(t, 2)
	})
}

func TestE16_RecordForTheFunction(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		id := uuid.NewString()
		// The category of a stream is the topic's first word, its id the key.
		event := outbox.Event{
			ID: id, Topic: "invoice.paid", Type: "InvoicePaid", Version: "3", Key: "invoice-7", Tenant: "north", Payload: order{ID: "7"},
			Headers: map[string]string{"correlation-id": "request-1", "causation-id": "command-1", "traceparent": trace},
		}
		before := time.Now().Truncate(time.Microsecond)
		s.emit(t, outbox.Event{Topic: "first"}, event)
		after := time.Now()
		runs.want(nil, relay.Result{Taken: 2, Sent: 2}, "first", "invoice.paid")
		m := runs.calls[1]
		if m.ID != id || m.Topic != event.Topic || m.Type != event.Type || m.Version != event.Version || m.Key != event.Key || m.Tenant != event.Tenant {
			t.Errorf("the record is %+v, want the fields of %+v", m, event)
		}
		if m.CreatedAt.Location() != time.UTC || m.CreatedAt.Before(before) || m.CreatedAt.After(after) {
			t.Errorf("created at %v, want UTC between %v and %v", m.CreatedAt, before, after)
		}
		if m.CorrelationID() != "request-1" || m.CausationID() != "command-1" || m.Headers["traceparent"] != trace {
			t.Errorf("the record's context is %v, want %v", m.Headers, event.Headers)
		}
		if m.Position <= runs.calls[0].Position || runs.calls[0].Position <= 0 {
			t.Errorf("the positions are %d and %d, want growing ones", runs.calls[0].Position, m.Position)
		}
		if want := `{"ID":"7","Key":"","N":0}`; string(m.Payload) != want || m.ContentType != outbox.ContentTypeJSON {
			t.Errorf("the payload is %s of type %s, want %s", m.Payload, m.ContentType, want)
		}
		d := r.await(2)[1]
		if d.ID != id || !d.CreatedAt.Equal(m.CreatedAt) || d.Type != m.Type || d.Version != m.Version {
			t.Errorf("the consumer got %+v, want what the function got", d.Metadata)
		}
	})
}

// byType is a publishing function of a program that has to know the types of what
// it sends.
func byType(known map[string]bool) func(m *outbox.Message) error {
	return func(m *outbox.Message) error {
		if !known[m.Type] {
			return fmt.Errorf("event type %q is not known here", m.Type)
		}
		return nil
	}
}

func TestE18_UnknownEventType(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		known := map[string]bool{"InvoicePaid": true}
		runs.fail = byType(known)
		s.emit(t, outbox.Event{Topic: "archived", Type: "InvoiceArchived", Key: "a"}, outbox.Event{Topic: "paid", Type: "InvoicePaid", Key: "b"})
		config := atOnce(1000)
		runs.want(config, relay.Result{Taken: 2, Sent: 1, Failed: 1}, "archived", "paid")
		wantUnknown(t, single(t, runs.store, store.Pending))
		// So it is in a relay whose transform has to know them.
		unknown := byType(map[string]bool{"InvoicePaid": true})
		theRelay := s.startRelay(t, relay.Config{
			RefusedBackoff: time.Millisecond, MaxRefusedBackoff: time.Millisecond, MaxAttempts: 5,
			Transform: func(_ context.Context, m *outbox.Message) error { return outbox.Refused(unknown(m)) },
		})
		s.emit(t, outbox.Event{Topic: "paid.too", Type: "InvoicePaid", Key: "c"})
		r.await(2)
		eventually(t, "a dead letter", func() (bool, string) { n := len(stored(t, runs.store, store.Dead)); return n == 1, fmt.Sprint(n) })
		theRelay.alive()
		theRelay.stop()
		dead := single(t, runs.store, store.Dead)
		wantUnknown(t, dead)
		if dead.Attempts != 5 {
			t.Errorf("%d attempts, want 5", dead.Attempts)
		}
		// A later version of the program knows it.
		known["InvoiceArchived"] = true
		_, err := admin.New(runs.store).Redrive(t.Context(), admin.Filter{IDs: []string{dead.ID}})
		must(t, err)
		runs.want(config, relay.Result{Taken: 1, Sent: 1}, "archived")
		r.await(3)
	})
}

func wantUnknown(t *testing.T, m store.Stored) {
	t.Helper()
	if m.Topic != "archived" || m.Attempts == 0 || !strings.Contains(m.LastError, `event type "InvoiceArchived" is not known here`) {
		t.Errorf("stored is %+v, want a counted failure with its reason", m)
	}
}

func TestE19_ExhaustedIsListedAndRequeued(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		runs.fail = failFor("failing")
		s.emit(t, outbox.Event{Topic: "failing", Key: "a", Payload: order{ID: "1"}})
		runs.runUntil(3, atOnce(3))
		dead := single(t, runs.store, store.Dead)
		if dead.Attempts != 3 || dead.Reason != store.Exhausted || dead.LastError != errNoLuck.Error() || dead.At.IsZero() {
			t.Errorf("listed is %+v, want three attempts with the last error", dead)
		}
		runs.fail, runs.calls = nil, nil
		n, err := admin.New(runs.store).Redrive(t.Context(), admin.Filter{Topic: "failing"})
		must(t, err)
		if again := stored(t, runs.store, store.Dead); n != 1 || len(again) != 0 {
			t.Errorf("%d requeued, listed is still %+v", n, again)
		}
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "failing")
		if m := runs.calls[0]; m.ID != dead.ID || m.Attempts != 0 || m.Position != dead.Position {
			t.Errorf("sent was %+v, want the same message %s as if it had not been tried", m, dead.ID)
		}
		r.await(1)
	})
}

// streamTable is of an event store: who appends the version first has won.
const streamTable = `CREATE TABLE stream (name TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (name, version))`

// appendEvent emits first, so that the entry is there when the race is lost.
func appendEvent(tx transaction, version int, topic string) error {
	if err := tx.emit(outbox.Event{Topic: topic, Key: "stream"}); err != nil {
		return err
	}
	return tx.exec(`INSERT INTO stream (name, version) VALUES ('stream', $1)`, version)
}

func TestE20_LostOptimisticLockRace(t *testing.T) {
	const writers = 6
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		execute(t, s, streamTable)
		var want []string
		for version := 1; version <= 3; version++ {
			errs := make([]error, writers)
			var writing sync.WaitGroup
			for i := range errs {
				writing.Go(func() {
					topic := fmt.Sprintf("version.%d.of.%d", version, i)
					errs[i] = s.inTx(func(tx transaction) error { return appendEvent(tx, version, topic) })
				})
			}
			writing.Wait()
			for i, err := range errs {
				if err == nil {
					want = append(want, fmt.Sprintf("version.%d.of.%d", version, i))
				}
			}
			if len(want) != version {
				t.Fatalf("the appends of version %d ended with %v, want one winner", version, errors.Join(errs...))
			}
		}
		s.wantRows(t, 3)
		runs.want(nil, relay.Result{Taken: 3, Sent: 3}, want...)
		r.await(3)
	})
}

func TestE21_OutboxPerModule(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		sales, billing := s.newModule(t, "sales"), s.newModule(t, "billing")
		sales.emit(t, outbox.Event{Topic: "sales.1", Key: "a"}, outbox.Event{Topic: "sales.2", Key: "b"})
		billing.emit(t, outbox.Event{Topic: "billing.1", Key: "a"})
		s.emit(t, outbox.Event{Topic: "other.1", Key: "a"})
		runs.fail = func(m *outbox.Message) error {
			if strings.HasPrefix(m.Topic, "sales.") {
				return errNoLuck
			}
			return nil
		}
		runs.store = sales
		runs.want(atOnce(1), relay.Result{Taken: 2, Failed: 2, Dead: 2}, "sales.1", "sales.2")
		runs.store = billing // whatever becomes of sales
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "billing.1")
		r.await(1)
		if n := len(stored(t, billing, store.Dead)); n != 0 {
			t.Errorf("billing has %d dead letters of sales", n)
		}
		s.wantRows(t, 1)

		book := newSent()
		for _, m := range []module{sales, billing} {
			p, err := openPublisher(s.address)
			must(t, err)
			runRelay(t, m.wholeStore, p, relay.Config{Hooks: []relay.Hook{book}}, func() {})
		}
		sales.emit(t, outbox.Event{Topic: "sales.3", Key: "a"})
		billing.emit(t, outbox.Event{Topic: "billing.2", Key: "a"})
		r.await(3)
		if n := len(book.read(book.published)); n != 2 {
			t.Errorf("the relays of the modules sent %d messages, want one each", n)
		}
		s.wantRows(t, 1)
	})
}

func TestE22_OtherWritesEnqueueNothing(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		execute(t, s, `CREATE TABLE snapshot (stream TEXT PRIMARY KEY, version INTEGER NOT NULL)`)
		snapshot := func(tx transaction, stream string) error {
			return tx.exec(`INSERT INTO snapshot (stream, version) VALUES ($1, 7)`, stream)
		}
		must(t, s.inTx(func(tx transaction) error { return snapshot(tx, "alone") }))
		s.wantRows(t, 0)
		must(t, s.inTx(func(tx transaction) error {
			return errors.Join(snapshot(tx, "before"), tx.emit(outbox.Event{Topic: "event"}), snapshot(tx, "after"))
		}))
		s.wantRows(t, 1)
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "event")
		r.await(1)
		// What the outbox itself writes beside it is no entry either.
		_, err := runs.store.Pause(t.Context(), store.Pause{Topic: "none"})
		must(t, err)
		runs.want(nil, relay.Result{})
		s.wantRows(t, 0)
	})
}
