// Package demo runs the main job on real servers and judges it: orders and their
// messages are written in one transaction, some of which roll back, relays bring
// the messages to a broker, and a worker counts what arrives.
//
// The judge trusts positions and timestamps in nothing. Each order takes the next
// number of its account under the lock of the account's row, in the transaction
// that emits; a rollback gives the number back. So the committed orders of an
// account are 1, 2, 3 and so on in the order of their commits, and their messages
// must arrive first in that order, each of them, and no others.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
)

// Options say what to run.
type Options struct {
	Messages int // orders to commit
	Keys     int // accounts
	Relays   int

	// DatabaseURL and BrokerURL are servers to use; empty for an SQLite file and a
	// JetStream server in this process.
	DatabaseURL string
	BrokerURL   string

	// Relay is the configuration of each relay, but for the name.
	Relay relay.Config

	// Timeout is how long the run may take, setting up and cleaning up aside. Zero
	// means two minutes and two seconds more for each thousand messages.
	Timeout time.Duration

	Logger *slog.Logger

	// Progress is where a progress bar is drawn; nil for none.
	Progress io.Writer
}

// ErrTimeout is returned when the time was over before all had been delivered.
var ErrTimeout = errors.New("the time is over before everything was delivered")

// Title says in a line what is run.
func (o *Options) Title() string {
	database, broker := wire.DatabaseKind(o.DatabaseURL), wire.BrokerKind(o.BrokerURL)
	if o.DatabaseURL == "" {
		database = wire.SQLite
	}
	if o.BrokerURL == "" {
		broker = "JetStream in this process"
	}
	return fmt.Sprintf("%s to %s, %s messages, %s keys, %d relays",
		database, broker, thousands(o.Messages), thousands(o.Keys), o.Relays)
}

func (o *Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return 2*time.Minute + time.Duration(o.Messages)*2*time.Millisecond
}

// Run runs the demo and removes what it has made. If there is a result, it is what
// is known, also when the error says that not all was done. The result's own error
// is not part of the error.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	own, err := scratch.New("outbox_demo")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.Remove(ctx)) }()
	shop, err := openShop(ctx, &o, own)
	if err != nil {
		return nil, err
	}
	broker, err := own.Broker(config.Broker{URL: o.BrokerURL})
	if err != nil {
		return nil, err
	}
	if err := shop.setUp(ctx, accounts(o.Keys)); err != nil {
		return nil, fmt.Errorf("set up the demo's tables: %w", err)
	}
	r := &run{Options: o, name: own.Name, shop: shop, broker: broker, ledger: newLedger(o.Messages)}
	runErr := r.execute(ctx)
	committed, err := r.committed(ctx)
	if err != nil {
		return nil, errors.Join(runErr, err)
	}
	judged := r.ledger.judge(committed)
	return &judged, runErr
}

// accounts are the keys.
func accounts(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("account-%04d", i+1)
	}
	return names
}
