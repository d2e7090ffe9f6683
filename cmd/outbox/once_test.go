package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

func TestOncePurgesTheHistory(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_RELAY_KEEP"] = "forever"
		d.emit("--topic", "a")
		d.call("relay", "--once").want(t, 0)
		d.sql(`UPDATE {sent} SET sent_at = {old}`)
		d.call("relay", "--once").want(t, 0)
		if kept := lines(t, d.call("messages", "list", "--json", "--state", "sent").stdout); len(kept) != 1 {
			t.Fatalf("kept %v", kept)
		}
		d.env["OUTBOX_RELAY_KEEP"] = "30d"
		d.emit("--topic", "b")
		d.call("relay", "--once").want(t, 0)
		if kept := lines(t, d.call("messages", "list", "--json", "--state", "sent").stdout); len(kept) != 1 || kept[0]["topic"] != "b" {
			t.Errorf("kept %v, want the new one alone", kept)
		}
	})
}

func TestOnceGoesOnAfterAnOutboxThatFails(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.call("migrate", "--database-table-prefix", "good_").want(t, 0)
	d.emit("--topic", "a", "--database-table-prefix", "good_")
	got := d.call("relay", "--once", "--relay-outboxes", "/first_,/good_,/last_")
	got.want(t, exitFailure, `"topic":"a"`, "outbox /first_: ", "outbox /last_: ")
	if strings.Contains(got.stderr, "outbox /good_") {
		t.Errorf("it says of the one that works:\n%s", got.stderr)
	}
}

// TestRefusedMessageWaitsAsConfigured: RabbitMQ refuses what no queue is bound for.
func TestRefusedMessageWaitsAsConfigured(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_BROKER_URL"] = testenv.RabbitMQ(t).NewVHost(t)
	d.emit("--topic", "a")
	d.call("relay", "--once", "--relay-refused-backoff", "10h").want(t, exitFailure, "1 message was not sent")
	if wait := d.emitted()[0]["retry_in_seconds"].(float64); wait < 4*3600 || wait > 10*3600 {
		t.Errorf("it waits %v s, want 5 to 10 hours", wait)
	}
}

// stuckStore is a database that does not answer.
type stuckStore struct{ relay.Store }

func stuck(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stuckStore) Check(ctx context.Context) error { return stuck(ctx) }
func (stuckStore) Promote(ctx context.Context, _ int) (store.Promotion, error) {
	return store.Promotion{}, stuck(ctx)
}
func (stuckStore) Claim(ctx context.Context, _ store.ClaimRequest) (store.Claim, error) {
	return store.Claim{}, stuck(ctx)
}
func (stuckStore) Leave(ctx context.Context, _ string, _ map[uint8]int64) error { return stuck(ctx) }
func (stuckStore) Read(ctx context.Context, _ ...store.ReadRequest) ([]store.Page, error) {
	return nil, stuck(ctx)
}
func (stuckStore) Settle(ctx context.Context, _ []store.Ref, _ bool) error { return stuck(ctx) }
func (stuckStore) Fail(ctx context.Context, _ []store.Failure) error       { return stuck(ctx) }
func (stuckStore) Parked(ctx context.Context, _ store.ShardSet) ([]store.Key, error) {
	return nil, stuck(ctx)
}
func (stuckStore) Pauses(ctx context.Context) ([]store.Pause, error) { return nil, stuck(ctx) }
func (stuckStore) PurgeSent(ctx context.Context, _ time.Duration, _ int) (int, error) {
	return 0, stuck(ctx)
}

func TestEachCallOfOnceEnds(t *testing.T) {
	s := timedStore{stuckStore{}}
	for name, call := range map[string]func(context.Context) error{
		"Check":   s.Check,
		"Promote": func(ctx context.Context) error { _, err := s.Promote(ctx, 1); return err },
		"Claim":   func(ctx context.Context) error { _, err := s.Claim(ctx, store.ClaimRequest{}); return err },
		"Leave":   func(ctx context.Context) error { return s.Leave(ctx, "", nil) },
		"Read":    func(ctx context.Context) error { _, err := s.Read(ctx); return err },
		"Settle":  func(ctx context.Context) error { return s.Settle(ctx, nil, false) },
		"Fail":    func(ctx context.Context) error { return s.Fail(ctx, nil) },
		"Parked":  func(ctx context.Context) error { _, err := s.Parked(ctx, 0); return err },
		"Pauses":  func(ctx context.Context) error { _, err := s.Pauses(ctx); return err },
		"PurgeSent": func(ctx context.Context) error {
			_, err := purgeAll(ctx, s.PurgeSent, time.Hour, 1)
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			if err := call(t.Context()); !errors.Is(err, errSlowDatabase) || time.Since(begun) != callTime {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, time.Since(begun), errSlowDatabase, callTime)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped{testSignal{}})
	if err := s.Check(ctx); !errors.Is(err, stopped{testSignal{}}) {
		t.Errorf("after a signal: %v, want its name", err)
	}
}
