package membroker

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/outbox-go/outbox"
)

var (
	errDown   = outbox.Unavailable(errors.New("membroker: the broker is down"))
	errLost   = outbox.Unavailable(errors.New("membroker: the connection was cut"))
	errClosed = outbox.Unavailable(errors.New("membroker: closed"))
)

// Publisher is an [outbox.Publisher]. It answers before Publish returns, unless
// [Broker.Hold] is on. It is safe for concurrent use.
type Publisher struct {
	broker *Broker
	closed atomic.Bool
}

// held is a message that was sent and that the broker has not taken yet.
type held struct {
	publisher *Publisher
	message   *outbox.Message
	done      func(error)
}

// Publish puts a copy of m into every queue that collects its topic.
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if answered, err := p.publish(ctx, m, done); answered {
		done(err)
	}
}

func (p *Publisher) publish(ctx context.Context, m *outbox.Message, done func(error)) (answered bool, err error) {
	if err := ctx.Err(); err != nil {
		return true, outbox.Unavailable(err)
	}
	b := p.broker
	b.publishing.Lock()
	defer b.publishing.Unlock()
	if p.closed.Load() {
		return true, errClosed
	}
	down, holding := b.state()
	switch {
	case down:
		return true, errDown
	case holding:
		b.held = append(b.held, held{p, m, done})
		return false, nil
	}
	return true, b.take(m)
}

// Close answers what is held back of this publisher with
// [outbox.ErrUnavailable]. It returns nil.
func (p *Publisher) Close() error {
	b := p.broker
	b.publishing.Lock()
	p.closed.Store(true)
	var mine, rest []held
	for _, h := range b.held {
		if h.publisher == p {
			mine = append(mine, h)
		} else {
			rest = append(rest, h)
		}
	}
	b.held = rest
	b.publishing.Unlock()
	answer(mine, errClosed)
	return nil
}

// take lets a message in, or refuses it. The caller holds publishing.
func (b *Broker) take(m *outbox.Message) error {
	b.mu.Lock()
	refuse := b.refuse
	b.mu.Unlock()
	if refuse != nil {
		if err := refuse(m); err != nil {
			return classify(err)
		}
	}
	b.route(m)
	return nil
}

func (b *Broker) state() (down, holding bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.down, b.holding
}

func classify(err error) error {
	for _, class := range []error{outbox.ErrUnavailable, outbox.ErrRefused, outbox.ErrInvalid} {
		if errors.Is(err, class) {
			return err
		}
	}
	return outbox.Refused(err)
}

func answer(held []held, err error) {
	for _, h := range held {
		h.done(err)
	}
}
