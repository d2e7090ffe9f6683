package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/worker"
)

// age has rows of one of the outbox's tables be older by so many days.
func (s *system) age(t testing.TB, table, column string, days int, where string) {
	t.Helper()
	by := fmt.Sprintf("interval '%d days'", days)
	if _, ok := s.database.(*sqlite); ok {
		by = fmt.Sprint(int64(days) * 86_400_000_000) // microseconds
	}
	execute(t, s, fmt.Sprintf(`UPDATE %s SET %s = %s - %s %s`, s.name(table), column, column, by, where))
}

// name is that of one of the outbox's tables.
func (s *system) name(table string) string {
	if _, ok := s.database.(*postgres); ok {
		return "outbox." + table
	}
	return "outbox_" + table
}

// rows counts those of one of the outbox's tables, without our code.
func (s *system) rows(t testing.TB, table string) (n int) {
	t.Helper()
	must(t, s.sql().QueryRowContext(context.Background(), `SELECT count(*) FROM `+s.name(table)).Scan(&n))
	return n
}

func TestK23_CleanUpAtOnceNeverOrAfterADuration(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		keeps := map[string]time.Duration{"at_once": 0, "never": relay.Forever, "after_a_while": time.Second}
		modules := map[string]module{}
		emitted := 0
		emit := func(topic string) {
			for _, m := range modules {
				m.emit(t, outbox.Event{Topic: topic})
			}
			emitted += len(modules)
			r.await(emitted)
		}
		for name, keep := range keeps {
			m := s.newModule(t, name)
			modules[name] = m
			p, err := openPublisher(s.address)
			must(t, err)
			runRelay(t, m.wholeStore, p, relay.Config{Keep: keep, PurgeInterval: time.Second}, func() {})
		}
		for i, topic := range []string{"first", "second"} {
			emit(topic)
			awaitStored(t, modules["never"], store.Sent, i+1)
			awaitStored(t, modules["after_a_while"], store.Sent, 1)
			awaitStored(t, modules["after_a_while"], store.Sent, 0) // its time has passed, for all
		}
		for name, want := range map[string]int{"never": 2, "at_once": 0} {
			awaitStored(t, modules[name], store.Pending, 0)
			if n := len(stored(t, modules[name], store.Sent)); n != want {
				t.Errorf("%s: %d messages are kept, want %d", name, n, want)
			}
		}
	})
}

// kept is what a database has to keep, or not.
type kept struct {
	Sent, Inbox                     int // may be purged
	Pending, Waiting, Later, Buried int // never
}

func (s *system) kept(t testing.TB) (k kept) {
	t.Helper()
	k = kept{Sent: s.rows(t, "sent"), Inbox: s.rows(t, "inbox"), Later: s.rows(t, "scheduled"), Buried: s.rows(t, "dead")}
	for _, row := range pending(t, s) {
		if row.attempts > 0 {
			k.Waiting++
		} else {
			k.Pending++
		}
	}
	return k
}

// fillForRetention sends n messages that are kept, and handles them; leaves one
// message in each of the other states; and ages all of it but the last five that were
// sent and received.
func (s *system) fillForRetention(t *testing.T, n int) {
	t.Helper()
	config := worker.Config{Queue: "orders", InboxRetention: -1}
	w := s.newWorker(t, config)
	s.handleTx(w, orderPlaced, func(context.Context, transaction, *worker.Delivery[order]) error { return nil })
	runWorker(t, w)
	first := s.startRelay(t, relay.Config{Keep: relay.Forever})
	s.placeOrders(t, "order", 1, n)
	eventually(t, "all to be sent and received", func() (bool, string) {
		k := s.kept(t)
		return k.Sent == n && k.Inbox == n, fmt.Sprintf("%+v", k)
	})
	first.stop()

	failing := &runs{t: t, store: s.whole(t), fail: func(*outbox.Message) error { return errNoLuck }}
	s.emit(t, outbox.Event{Topic: "buried", Key: "b"})
	failing.run(atOnce(1))
	s.emit(t, outbox.Event{Topic: "waiting", Key: "w"})
	failing.run(&relay.OnceConfig{RefusedBackoff: time.Hour, MaxRefusedBackoff: time.Hour})
	s.emit(t, outbox.Event{Topic: "later", DeliverAt: time.Now().Add(time.Hour)}, outbox.Event{Topic: "pending", Key: "p"})

	old := fmt.Sprintf(`WHERE place <= (SELECT max(place) - 5 FROM %s)`, s.name("sent"))
	s.age(t, "sent", "sent_at", 31, old)
	s.age(t, "inbox", "received_at", 31, fmt.Sprintf(`WHERE message_id NOT IN (SELECT CAST(id AS TEXT) FROM %s ORDER BY place DESC LIMIT 5)`, s.name("sent")))
	s.age(t, "dead", "died_at", 400, "")
	for _, table := range []string{"message", "scheduled", "dead"} {
		s.age(t, table, "created_at", 400, "")
	}
}

func TestD22_RetentionTouchesNothingUnsent(t *testing.T) {
	const sent, young = 25, 5
	const month = 30 * 24 * time.Hour
	eachSystem(t, func(t *testing.T, s *system) {
		s.fillForRetention(t, sent)
		whole := s.whole(t)
		want := kept{Sent: sent, Inbox: sent, Pending: 1, Waiting: 1, Later: 1, Buried: 1}
		s.wantKept(t, want, "at the beginning")
		if n, err := whole.CountSent(t.Context(), month); err != nil || n != sent-young {
			t.Errorf("%d are counted, %v; want %d", n, err, sent-young)
		}
		// In small batches, the oldest first.
		oldest := stored(t, whole, store.Sent)[7].ID
		if n, err := whole.PurgeSent(t.Context(), month, 7); err != nil || n != 7 {
			t.Errorf("a batch of 7 deleted %d, %v", n, err)
		}
		want.Sent -= 7
		s.wantKept(t, want, "after a batch")
		if left := stored(t, whole, store.Sent)[0].ID; left != oldest {
			t.Errorf("the oldest that is left is %s, want %s", left, oldest)
		}
		s.wantPurge(t, want.Sent-young, sent-young, "--dry-run")
		s.wantKept(t, want, "after a dry run")
		s.wantPurge(t, want.Sent-young, sent-young, "--chunk=3")
		want.Sent, want.Inbox = young, young
		s.wantKept(t, want, "after the command")
		s.wantPurge(t, 0, 0)

		// By a relay, which looks by itself.
		s.age(t, "sent", "sent_at", 31, "")
		never := outbox.PublishFunc(func(context.Context, *outbox.Message) error { return outbox.Unavailable(errNoLuck) })
		s.startRelayWith(t, never, relay.Config{Keep: month, PurgeInterval: time.Second})
		want.Sent = 0
		eventually(t, "the history to be purged", func() (bool, string) {
			k := s.kept(t)
			return k == want, fmt.Sprintf("%+v", k)
		})
	})
}

func (s *system) wantKept(t *testing.T, want kept, when string) {
	t.Helper()
	if got := s.kept(t); got != want {
		t.Errorf("%s the database has %+v, want %+v", when, got, want)
	}
}

// wantPurge runs the command for what is older than thirty days.
func (s *system) wantPurge(t *testing.T, sent, inbox int, flags ...string) {
	t.Helper()
	args := append([]string{"run", ".", "purge", "--database-url", s.databaseURL(), "--older-than", "30d", "--json"}, flags...)
	cmd := exec.Command("go", args...)
	cmd.Dir = "../cmd/outbox"
	out, err := cmd.Output()
	must(t, err)
	var got struct {
		Sent, Inbox int
		DryRun      bool `json:"dry_run"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("the command printed %s: %v", out, err)
	}
	if dry := slices.Contains(flags, "--dry-run"); got.Sent != sent || got.Inbox != inbox || got.DryRun != dry {
		t.Errorf("purge %v printed %s, want %d sent and %d of the inbox", flags, out, sent, inbox)
	}
}
