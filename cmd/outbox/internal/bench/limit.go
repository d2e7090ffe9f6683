package bench

import (
	"context"
	"errors"
	"io"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// Limit measures how fast messages from memory go to a broker by the publisher of the
// relays: no relay can be faster. If there is a result, it is what is known, also when
// the error says that not all was done. The result's own error is not part of the
// error.
func Limit(ctx context.Context, o Options) (result *Result, err error) {
	own, err := scratch.New("outbox_bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.Remove(ctx)) }()
	t, err := newTraffic(&o, own)
	if err != nil {
		return nil, err
	}
	conditions, err := conditionsOf(ctx, o.Program, nil, &t.broker)
	if err != nil {
		return nil, err
	}
	publisher, err := wire.OpenPublisher(t.broker, io.Discard, o.Logger)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout(), ErrTimeout)
	defer cancel()
	runErr := t.run(ctx, &memory{publisher: publisher, load: o.Load, window: o.Relay.Window})
	runErr = errors.Join(runErr, publisher.Close())
	return t.result("limit", conditions, o.Messages, 0), runErr
}

// memory sends messages that are in no database.
type memory struct {
	publisher outbox.Publisher
	load      measure.Load
	window    int
}

// start returns when all are sent.
func (m *memory) start(ctx context.Context) error {
	return because(ctx, measure.Direct(ctx, m.publisher, m.load, m.window))
}

func (m *memory) sent(context.Context) error { return nil }
func (m *memory) used() measure.Usage        { return measure.Usage{} }
func (m *memory) stop() error                { return nil }
