package stomp

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

var (
	_ outbox.Publisher = (*Publisher)(nil)
	_ outbox.Flusher   = (*Publisher)(nil)
)

// Publisher is an [outbox.Publisher] that asks for a receipt of each message. It is
// an [outbox.Flusher], too: messages are collected, and sent when some tens of
// kilobytes have come together, when it has to wait, or by Flush. Its answers:
//
//   - nil: the broker has sent the receipt. RabbitMQ sends it when the message is
//     confirmed; with quorum and with durable classic queues it is on disk. A message
//     that no queue is bound for is confirmed, too.
//   - ErrRefused: the broker ended the connection because of the message: its
//     destination does not exist, or may not be written to, or a queue that is full
//     refuses it.
//   - ErrInvalid: the destination is none, the topic, the content type or a header's
//     name exceeds 255 bytes, all headers together 100 KiB or 900, or the payload
//     RabbitMQ's max_message_size.
//   - ErrUnavailable: anything else; with [ErrReplay] see there.
//
// While there is no connection Publish answers at once; only the first attempt to
// connect is waited for. It waits, too, while 4,096 messages are unanswered. While
// RabbitMQ is short of memory or disk it answers nothing
// (https://www.rabbitmq.com/docs/alarms): after the ReceiptTimeout the messages are
// answered with ErrUnavailable.
type Publisher struct {
	endpoint *endpoint
	config   PublisherConfig
	encoder  encoder
	stop     context.CancelFunc
	stopped  chan struct{}

	// publishing is held by Publish, writing while it writes: whoever ends a session
	// takes the latter before it answers, since a message must not be read any more
	// when it has been answered.
	publishing sync.Mutex
	writing    sync.Mutex
	frame      stomp.Frame // of what is being published

	mu         sync.Mutex
	session    *session // nil while there is no connection
	connecting bool     // the connection is worth waiting for
	down       error    // why there is no connection
	suspects   suspects
	maxPayload int // as learned from the broker; 0 is unknown
	waiting    bool
	wake       chan struct{}
}

// NewPublisher returns a publisher to the broker at url, of the form
// stomp://user:password@host:61613,host2:61613/vhost, or stomps:// with TLS. config
// may be nil. It connects in the background, to the first of the hosts that answers,
// and again when the connection is lost; the error is about url and config only, and
// names every fault.
func NewPublisher(url string, config *PublisherConfig) (*Publisher, error) {
	c := config.withDefaults()
	e, err := newEndpoint(url, c.Connection, c.validate())
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		endpoint: e, config: c, encoder: encoder{template: newTemplate(c.Destination), dop: c.DOP},
		stop: stop, stopped: make(chan struct{}), connecting: true, down: errConnecting, wake: make(chan struct{}, 1),
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

// Flush implements [outbox.Flusher]. While many messages are unanswered, what was
// collected goes out with what comes within half a millisecond. It returns nil: what
// becomes of the messages, their answers tell.
func (p *Publisher) Flush() error {
	p.mu.Lock()
	s := p.session
	many := s != nil && s.window.len() >= busy
	p.mu.Unlock()
	switch {
	case many:
		select {
		case s.flush <- struct{}{}:
		default:
		}
	case s != nil:
		_ = s.conn.Flush()
	}
	return nil
}

// publish returns an error if done will not be called.
func (p *Publisher) publish(ctx context.Context, m *outbox.Message, done func(error)) error {
	p.publishing.Lock()
	defer p.publishing.Unlock()
	if reason := fault(m); reason != "" {
		return outbox.Invalid(fmt.Errorf("stomp: %s", reason))
	}
	s, receipt, err := p.admit(ctx, m, done)
	if err != nil {
		return err
	}
	defer p.writing.Unlock()
	p.encoder.encode(&p.frame, m, receipt)
	if err := s.conn.Write(&p.frame); err != nil && s.conn.Err() == nil {
		p.withdraw(s, receipt)
		return outbox.Invalid(fmt.Errorf("stomp: %w", err))
	}
	// Of a connection that is lost the end of the session answers all messages.
	return nil
}

// admit waits until m may be sent, and adds it to the window of the session that it
// returns; from then on the session answers it. The caller unlocks p.writing.
func (p *Publisher) admit(ctx context.Context, m *outbox.Message, done func(error)) (*session, uint64, error) {
	var expired <-chan time.Time
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return nil, 0, outbox.Unavailable(err)
		}
		if err := p.fault(m); err != nil {
			return nil, 0, err
		}
		if p.ready() {
			p.writing.Lock()
			return p.session, p.session.window.add(m, done), nil
		}
		if expired == nil {
			timer := time.NewTimer(p.config.ReceiptTimeout)
			defer timer.Stop()
			expired = timer.C
		}
		if err := p.wait(ctx, expired); err != nil {
			return nil, 0, err
		}
	}
}

// withdraw takes back a message that could not be encoded.
func (p *Publisher) withdraw(s *session, receipt uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.window.take(receipt)
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
		return outbox.Invalid(fmt.Errorf("stomp: payload has %d bytes, the broker's max_message_size is %d", len(m.Payload), p.maxPayload))
	}
	return nil
}

// ready reports whether a message can be sent now. The caller holds p.mu.
func (p *Publisher) ready() bool {
	return p.session != nil && !p.session.window.full() && (!p.suspects.any() || p.session.window.len() == 0)
}

// wait sends what was collected and waits for a change. The caller holds p.mu, and
// holds it again afterwards.
func (p *Publisher) wait(ctx context.Context, expired <-chan time.Time) error {
	p.waiting = true
	s := p.session
	p.mu.Unlock()
	defer p.mu.Lock()
	if s != nil {
		_ = s.conn.Flush()
	}
	select {
	case <-p.wake:
	case <-ctx.Done():
	case <-expired:
		return outbox.Unavailable(errReceiptTimeout)
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
