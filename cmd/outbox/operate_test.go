package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
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

func TestOnceTakesWhatARelayLeaves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.call("pause", "--all").want(t, 0)
		id := d.emit("--topic", "a")
		d.wantPrinted("", "relay", "--once")
		p := start(t, d.env, "relay")
		await(t, "the relay to have its shards", func() bool { return !strings.Contains(d.call("stats").stdout, "no relay") })
		d.call("resume", "--all").want(t, 0)
		if sent := p.awaitLines(1); sent[0]["id"] != id {
			t.Errorf("sent %v", sent)
		}
		d.wantPrinted("", "relay", "--once")
		p.stop()
		p.said().want(t, 0)
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

// TestSignalEndsAChange: its reason is told, and nothing is lost.
func TestSignalEndsAChange(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.emitDead("--topic", "a")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped{testSignal{}})
	callContext(ctx, d.env, "", "dead", "redrive", "--all").want(t, exitFailure, "stopped by signal: test")
	d.wantPrinted("1 dead letter redriven\n", "dead", "redrive", "--all")
}
