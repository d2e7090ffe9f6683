// Package bench measures the outbox on the servers that it is pointed at, each time
// with messages that it makes, judges and removes itself.
package bench

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/relay"
)

// Options say what [Drain] and [Limit] measure.
type Options struct {
	measure.Load

	// DatabaseURL is PostgreSQL's, or that of an SQLite file which does not exist;
	// empty for an SQLite file in a temporary folder.
	DatabaseURL string

	// Broker says where messages go, but for the names of exchange and stream. Without
	// URL they go to a JetStream server in this process.
	Broker config.Broker

	// Relay is the configuration of each relay, but for the name. Its window is that of
	// Limit, too.
	Relay  relay.Config
	Relays int

	// Process says how to run each relay in a process of its own; nil for all of them
	// in this one.
	Process *Process

	// HoldSnapshot has another session hold a snapshot open from before the first
	// message is emitted to the end, and IdleOutboxes is how many more outboxes there
	// are, each with a relay (PostgreSQL).
	HoldSnapshot bool
	IdleOutboxes int

	// NoConsumer has messages consumed after the clock has stopped. It does not go with
	// Process.
	NoConsumer bool
	Prefetch   int

	// Timeout is how long the run may take, setting up and cleaning up aside. Zero means two minutes
	// and two seconds more for each thousand messages.
	Timeout time.Duration

	// Profile is a folder for pprof files, empty for none.
	Profile string

	// Program is this program's version.
	Program string
	Logger  *slog.Logger
}

// ErrTimeout is returned when the time was over before all had arrived.
var ErrTimeout = errors.New("the time is over before everything has arrived")

// because returns the reason why ctx has ended, if that is why there is an error.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (o *Options) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return 2*time.Minute + time.Duration(o.Messages)*2*time.Millisecond
}
