package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
)

// TestParkedKeyIsMended goes the operator's way: nobody has bound a queue, messages
// are refused, the key parks, the queue is bound, and all of the key is redriven.
func TestParkedKeyIsMended(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		vhost := testenv.RabbitMQ(t).NewVHost(t)
		ch := rabbitChannel(t, vhost)
		d.env["OUTBOX_BROKER_URL"] = vhost
		d.env["OUTBOX_RELAY_MAX_ATTEMPTS"], d.env["OUTBOX_RELAY_ON_DEAD"] = "1", "order.#=park"
		first := d.emit("--topic", "order.placed", "--key", "7")
		second := d.emit("--topic", "order.paid", "--key", "7")
		p := start(t, d.env, "relay", "--relay-listen", "127.0.0.1:0")
		dead := func() []map[string]any { return lines(t, d.call("dead", "list", "--json").stdout) }
		await(t, "both to be dead", func() bool { return len(dead()) == 2 })
		if got := dead(); got[0]["id"] != first || got[0]["reason"] != "exhausted" || got[1]["id"] != second || got[1]["reason"] != "parked" {
			t.Errorf("dead are %v", got)
		}
		d.call("stats").want(t, 0, "parked keys                  1")
		third := d.emit("--topic", "order.shipped", "--key", "7")
		await(t, "the key's later message to join them", func() bool { return len(dead()) == 3 })
		_, metrics := p.get("/metrics")
		for _, want := range []string{`reason="exhausted",route=""} 1`, `reason="parked",route=""} 2`, `outbox_refused_total{`} {
			if !strings.Contains(metrics, want) {
				t.Errorf("the metrics lack %s", want)
			}
		}
		for _, err := range []error{
			func() error { _, err := ch.QueueDeclare("q", true, false, false, false, nil); return err }(),
			ch.QueueBind("q", "#", "outbox", false, nil),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		// With one of the key go all.
		d.wantPrinted("3 dead letters redriven\n", "dead", "redrive", second)
		for i, want := range []string{first, second, third} {
			await(t, fmt.Sprint("message ", i), func() bool {
				m, ok, err := ch.Get("q", true)
				if err == nil && ok && m.MessageId != want {
					t.Fatalf("message %d is %s, want %s", i, m.MessageId, want)
				}
				return err == nil && ok
			})
		}
		p.stop()
		p.said().want(t, 0)
	})
}

func TestUnroutableMessageIsAcceptedIfTheUserSaysSo(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_BROKER_URL"] = testenv.RabbitMQ(t).NewVHost(t)
	d.emit("--topic", "a")
	d.call("relay", "--once").want(t, exitFailure, "1 message was not sent, the last one for ", "see `outbox messages list --waiting`")
	d.call("messages", "retry", "--all").want(t, 0)
	d.call("relay", "--once", "--broker-unroutable", "accept").want(t, 0)
	d.wantPrinted("", "messages", "list", "--json")
}

// TestCancelAsksARunningRelay: a message that a relay has in its memory is taken
// from it.
func TestCancelAsksARunningRelay(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_RELAY_LEASE_TTL"] = "1s"
		d.call("pause", "--topic", "held.#").want(t, 0)
		id := d.emit("--topic", "held.a")
		p := start(t, d.env, "relay")
		d.emit("--topic", "free")
		p.awaitLines(1)
		d.call("stats").want(t, 0, "RELAY", "paused: topic held.#")
		d.wantPrinted("cancelled\n", "messages", "cancel", id)
		d.call("resume", "--topic", "held.#").want(t, 0)
		last := d.emit("--topic", "free")
		if sent := p.awaitLines(2); sent[1]["id"] != last {
			t.Errorf("sent %v, want not what was cancelled", sent)
		}
		p.stop()
		p.said().want(t, 0)
	})
}

// TestOnceTakesWhatARelayLeaves: not what a relay holds that cannot send it, but what
// is on a route that it does not drain, and all when it has ended.
func TestOnceTakesWhatARelayLeaves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		shards := 64.0
		if strings.HasPrefix(d.env["OUTBOX_DATABASE_URL"], "sqlite") {
			shards = 1
		}
		held := d.emit("--topic", "a")
		p := start(t, d.env, "relay", "--broker-url", closedPort(t))
		await(t, "the relay to have all shards", func() bool {
			relays := lines(t, d.call("stats", "--json").stdout)[0]["relays"].([]any)
			return len(relays) == 1 && relays[0].(map[string]any)["shards"] == shards
		})
		d.wantPrinted("", "relay", "--once")
		left := d.emit("--topic", "a", "--route", "audit")
		if sent := lines(t, d.call("relay", "--once", "--relay-route", "audit").stdout); len(sent) != 1 || sent[0]["id"] != left {
			t.Errorf("sent %v, want what nobody else drains", sent)
		}
		p.stop()
		p.said().want(t, 0)
		if sent := lines(t, d.call("relay", "--once").stdout); len(sent) != 1 || sent[0]["id"] != held {
			t.Errorf("sent %v, want what the relay has left", sent)
		}
	})
}

func TestStatsAreWatchedUntilASignal(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	p := start(t, d.env, "stats", "--watch", "1s", "--json")
	first := p.awaitLines(1)[0]
	d.emit("--topic", "a")
	await(t, "the next count", func() bool {
		all := lines(t, p.said().stdout)
		return all[len(all)-1]["pending"] == 1.0
	})
	if first["pending"] != 0.0 {
		t.Errorf("first %v", first)
	}
	p.stop()
	p.said().want(t, 0)
}

// signalledAdmin is told to stop in the middle of its second chunk.
type signalledAdmin struct {
	store.Admin
	stop   func()
	chunks int
}

func (s *signalledAdmin) Redrive(ctx context.Context, places []int64) (int, error) {
	if s.chunks++; s.chunks == 2 {
		s.stop()
	}
	return s.Admin.Redrive(ctx, places)
}

// TestSignalEndsAChange: the chunk that is at work is finished, and counts.
func TestSignalEndsAChange(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		l := config.Load(config.Sources{Env: func(name string) (string, bool) { value, ok := d.env[name]; return value, ok }})
		s, err := wire.OpenStore(t.Context(), l.Database, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		events := make([]outbox.Event, 1200)
		for i := range events {
			events[i] = outbox.Event{Topic: "a", ExpiresAt: time.Now().Add(time.Millisecond)}
		}
		if err := s.Emit(t.Context(), nil, events...); err != nil {
			t.Fatal(err)
		}
		dead := func() any { return lines(t, d.call("stats", "--json").stdout)[0]["dead"] }
		await(t, "all to be dead", func() bool {
			d.call("relay", "--once", "--limit", "10000").want(t, 0)
			return dead() == 1200.0
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		signalled := &signalledAdmin{Admin: s, stop: func() { cancel(stopped{testSignal{}}) }}
		var out bytes.Buffer
		change := &messageChange{what: "dead letter", done: "redriven", do: (*admin.Admin).Redrive, filter: admin.Filter{All: true}}
		err = change.run(ctx, signalled, &out)
		if out.String() != "1000 dead letters redriven\n" || err == nil || err.Error() != "stopped by signal: test" || dead() != 200.0 {
			t.Errorf("printed %q, %v, and %v are left, want 1000 and 200", &out, err, dead())
		}
		callContext(ctx, d.env, "", "dead", "redrive", "--all").want(t, exitFailure, "stopped by signal: test")
		d.wantPrinted("200 dead letters redriven\n", "dead", "redrive", "--all")
	})
}
