package rabbitmq

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

var _ outbox.Publisher = (*Publisher)(nil)

// Publisher is an [outbox.Publisher] with publisher confirms
// (https://www.rabbitmq.com/docs/confirms). Its answers:
//
//   - nil: the broker has confirmed the message; with quorum and with durable
//     classic queues it is on disk.
//   - ErrRefused: the broker nacked the message, as a full queue with
//     overflow=reject-publish does; or no queue is bound for it; or the broker
//     closed the channel because of it.
//   - ErrInvalid: topic, id or content type exceed 255 bytes, all properties
//     together a frame, or the payload the broker's max_message_size.
//   - ErrUnavailable: anything else; with [ErrReplay] see there.
//
// While there is no connection Publish answers at once; only the first attempt to
// connect is waited for. It waits, too, while 4,096 messages or another message of
// the same id are unanswered and, for the ConfirmTimeout at most, while the broker
// blocks publishers because of an alarm (https://www.rabbitmq.com/docs/alarms).
type Publisher struct {
	endpoint *endpoint
	config   PublisherConfig
	stop     context.CancelFunc
	stopped  chan struct{}

	// publishing is held by Publish, writing while it writes: whoever ends a session
	// takes the latter before it answers, since a message must not be read any more
	// when it has been answered.
	publishing sync.Mutex
	writing    sync.Mutex
	frames     []byte // of what is being published

	mu         sync.Mutex
	session    *session // nil while there is no connection
	connecting bool     // the connection is worth waiting for
	down       error    // why there is no connection
	blocked    bool     // the broker takes nothing because of an alarm
	suspects   suspects
	maxPayload int // as learned from the broker; 0 is unknown
	waiting    bool
	wake       chan struct{}

	expire func(*outbox.Message) string // the expiration of a message, for tests; may be nil
}

// NewPublisher returns a publisher to the broker at url, or to the first of several
// hosts that answers. config may be nil. It connects in the background, and again
// when the connection is lost; the error is about url and config only, and names
// every fault.
func NewPublisher(url string, config *PublisherConfig) (*Publisher, error) {
	c := config.withDefaults()
	e, err := newEndpoint(url, c.Connection, c.validate())
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		endpoint: e, config: c, stop: stop, stopped: make(chan struct{}),
		connecting: true, down: errConnecting, wake: make(chan struct{}, 1),
	}
	go p.run(ctx)
	return p, nil
}

// Close gives up what is unanswered, with ErrUnavailable, and closes the
// connection. It may be called more than once.
func (p *Publisher) Close() error {
	p.stop()
	<-p.stopped
	return nil
}

// Publish implements [outbox.Publisher].
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if err := p.publish(ctx, m, done); err != nil {
		done(err)
	}
}

// publish returns an error if done will not be called.
func (p *Publisher) publish(ctx context.Context, m *outbox.Message, done func(error)) error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if fault := propertiesFault(m); fault != "" {
		return outbox.Invalid(fmt.Errorf("rabbitmq: %s", fault))
	}
	s, err := p.admit(ctx, m, done)
	if err != nil {
		return err
	}
	defer p.writing.Unlock()
	expiration := ""
	if p.expire != nil {
		expiration = p.expire(m)
	}
	p.frames = s.route.appendMessage(p.frames[:0], m, expiration)
	_, _ = s.conn.socket.Write(p.frames) // the session's end answers what cannot be written
	if cap(p.frames) > socketBuffer {
		p.frames = nil
	}
	return nil
}

// admit waits until m may be sent, and adds it to the window of the session that it
// returns; from then on the session answers it. The caller unlocks p.writing.
func (p *Publisher) admit(ctx context.Context, m *outbox.Message, done func(error)) (*session, error) {
	var expired <-chan time.Time
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, outbox.Unavailable(err)
		}
		if err := p.fault(m); err != nil {
			return nil, err
		}
		if p.ready(m.ID) {
			p.writing.Lock()
			p.session.window.add(m.ID, done)
			return p.session, nil
		}
		if expired == nil {
			timer := time.NewTimer(p.config.ConfirmTimeout)
			defer timer.Stop()
			expired = timer.C
		}
		if err := p.wait(ctx, expired); err != nil {
			return nil, err
		}
	}
}

// fault tells why m cannot be sent now or ever. The caller holds p.mu.
func (p *Publisher) fault(m *outbox.Message) error {
	if p.session == nil {
		if p.connecting {
			return nil
		}
		return outbox.Unavailable(p.down)
	}
	if p.maxPayload > 0 && len(m.Payload) > p.maxPayload {
		p.suspects.answered(m.ID)
		return outbox.Invalid(fmt.Errorf("rabbitmq: payload has %d bytes, the broker's max_message_size is %d", len(m.Payload), p.maxPayload))
	}
	if most := p.session.maxProperties; propertiesSize(m) > most {
		return outbox.Invalid(fmt.Errorf("rabbitmq: id, type, headers and other properties have %d bytes, at most %d fit in a frame", propertiesSize(m), most))
	}
	return nil
}

// ready reports whether a message of that id can be sent now. The caller holds p.mu.
func (p *Publisher) ready(id string) bool {
	return p.session != nil && !p.session.over && !p.blocked && p.session.window.admits(id) &&
		(!p.suspects.any() || p.session.window.len() == 0)
}

// wait waits for a change. The caller holds p.mu, and holds it again afterwards.
func (p *Publisher) wait(ctx context.Context, expired <-chan time.Time) error {
	p.waiting = true
	blocked := p.blocked
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-p.wake:
	case <-ctx.Done():
	case <-expired:
		if blocked {
			return outbox.Unavailable(errBlocked)
		}
		return outbox.Unavailable(errConfirmTimeout)
	}
	return nil
}

// changed wakes a Publish that waits. The caller holds p.mu.
func (p *Publisher) changed() {
	if p.waiting {
		p.waiting = false
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}
