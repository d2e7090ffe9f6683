package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// session is a connection with a channel in confirm mode, from its opening to its
// end.
type session struct {
	conn          *connection
	channel       *amqp.Channel
	window        *window
	maxProperties int
	opened        time.Time
	answered      bool // the broker has answered a message

	confirms chan amqp.Confirmation
	returns  chan amqp.Return
	blocks   chan amqp.Blocking
	closed   chan *amqp.Error

	batch   []amqp.Confirmation
	answers []answer
}

// maxProperties returns how many bytes of properties fit in a frame, of which 8 are
// not payload (AMQP 0-9-1, 4.2.3). A frame size of 0 means that there is no limit.
func maxProperties(frameSize int) int {
	if frameSize == 0 {
		return math.MaxInt
	}
	return frameSize - 8
}

// run connects and answers until ctx ends.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.stopped)
	defer p.shut()
	log := p.config.Connection.Logger
	for attempt := 0; ; attempt++ {
		s, err := p.open(ctx)
		if err == nil {
			log.Info("publisher connected", "broker", s.conn.address.String())
			err = p.serve(ctx, s)
			if s.answered || time.Since(s.opened) > p.config.Connection.ReconnectMax {
				attempt = 0
			}
		}
		blamed := p.lose(s, err)
		if ctx.Err() != nil {
			return
		}
		log.Warn("publisher not connected", "error", err)
		if !blamed && !sleep(ctx, p.config.Connection.backoff(attempt)) {
			return
		}
	}
}

// shut has Publish answer that the publisher is closed.
func (p *Publisher) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connecting, p.down = false, errClosed
	p.changed()
}

// open connects and makes the channel ready to publish.
func (p *Publisher) open(ctx context.Context) (*session, error) {
	s := &session{
		window:   newWindow(),
		confirms: make(chan amqp.Confirmation, maxUnanswered),
		returns:  make(chan amqp.Return, maxUnanswered),
		blocks:   make(chan amqp.Blocking, 8),
		closed:   make(chan *amqp.Error, 1),
	}
	err := p.endpoint.connect(ctx, func(c *connection) error {
		ch, err := c.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if err := exchangeEntity(p.config.Exchange, amqp.ExchangeTopic).ensure(ch, p.config.Topology); err != nil {
			return err
		}
		if err := ch.Confirm(false); err != nil {
			return fmt.Errorf("confirm mode: %w", err)
		}
		s.conn, s.channel = c, ch
		c.NotifyBlocked(s.blocks)
		ch.NotifyPublish(s.confirms)
		ch.NotifyReturn(s.returns)
		ch.NotifyClose(s.closed)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: %w", err)
	}
	s.maxProperties = maxProperties(s.conn.Config.FrameSize)
	s.opened = time.Now()
	return s, nil
}

// serve lets messages in and answers them until the session ends, for the reason
// that it returns.
func (p *Publisher) serve(ctx context.Context, s *session) error {
	p.mu.Lock()
	p.session, p.connecting, p.blocked = s, false, false
	p.changed()
	p.mu.Unlock()
	ticker := time.NewTicker(max(p.config.ConfirmTimeout/8, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case c, ok := <-s.confirms:
			if !ok {
				return closeReason(<-s.closed)
			}
			if err := p.confirmed(s, c); err != nil {
				return err
			}
		case b, ok := <-s.blocks:
			if !ok {
				s.blocks = nil
			} else {
				p.setBlocked(b)
			}
		case <-ticker.C:
			if p.overdue(s) {
				return errConfirmTimeout
			}
		case <-ctx.Done():
			return errClosed
		}
	}
}

// closeReason tells why a channel was closed; err is nil if it was closed in order.
func closeReason(err *amqp.Error) error {
	switch {
	case err == nil:
		return errLost
	case err.Server:
		return fmt.Errorf("rabbitmq: closed by the broker: %w", err)
	}
	return fmt.Errorf("%w: %s", errLost, err.Reason)
}

func (p *Publisher) setBlocked(b amqp.Blocking) {
	p.mu.Lock()
	p.blocked = b.Active
	p.changed()
	p.mu.Unlock()
	if b.Active {
		p.config.Connection.Logger.Warn("broker blocks publishers", "reason", b.Reason)
	} else {
		p.config.Connection.Logger.Info("broker takes messages again")
	}
}

func (p *Publisher) overdue(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent, any := s.window.oldest()
	return any && time.Since(sent) > p.config.ConfirmTimeout
}

// confirmed answers the message that first confirms, and those of the confirms that
// are there already. The returns are looked at when the confirms have been taken:
// the broker sends a basic.return before the basic.ack of its message, and the
// library passes both on in that order.
func (p *Publisher) confirmed(s *session, first amqp.Confirmation) error {
	s.takeConfirms(first)
	s.answered = true
	p.mu.Lock()
	err := s.takeReturns(p.config.Exchange)
	if err == nil {
		err = p.settle(s)
	}
	p.changed()
	p.mu.Unlock()
	s.tell()
	return err
}

func (s *session) takeConfirms(first amqp.Confirmation) {
	s.batch = append(s.batch[:0], first)
	for {
		select {
		case c, ok := <-s.confirms:
			if !ok {
				return // the caller finds it closed next time
			}
			s.batch = append(s.batch, c)
		default:
			return
		}
	}
}

// takeReturns marks the messages that the broker has returned.
func (s *session) takeReturns(exchange string) error {
	for {
		select {
		case r, ok := <-s.returns:
			if !ok {
				return nil
			}
			err := outbox.Refused(fmt.Errorf("rabbitmq: unroutable: no queue is bound to exchange %q for topic %q: %d %s",
				exchange, r.RoutingKey, r.ReplyCode, r.ReplyText))
			if !s.window.markReturned(r.MessageId, err) {
				return errUnknownReturn
			}
		default:
			return nil
		}
	}
}

// settle turns the batch of confirms into answers. The caller holds p.mu.
func (p *Publisher) settle(s *session) error {
	for _, c := range s.batch {
		if c.DeliveryTag != s.window.head || s.window.len() == 0 {
			return errUnknownConfirm
		}
		m := s.window.take()
		err := m.returned
		if err == nil && !c.Ack {
			err = errNack
		}
		p.suspects.answered(m.id)
		s.answers = append(s.answers, answer{m.done, err})
	}
	return nil
}

var errNack = outbox.Refused(errors.New("rabbitmq: the broker did not take the message (basic.nack): is a queue full?"))

// tell passes the answers on.
func (s *session) tell() {
	for i, a := range s.answers {
		a.done(a.err)
		s.answers[i] = answer{}
	}
	s.answers = s.answers[:0]
}

// lose ends s, which is nil if it could not be opened, and answers what it leaves.
// It reports whether the broker blames a message for the end.
func (p *Publisher) lose(s *session, reason error) bool {
	var exception *amqp.Error
	blamed := s != nil && errors.As(reason, &exception) && blames(exception)
	p.mu.Lock()
	p.session, p.connecting, p.down = nil, blamed, reason
	if !blamed {
		p.maxPayload = 0 // it may be another broker that comes back
	} else if limit, ok := sizeLimit(exception); ok {
		p.maxPayload = limit
	}
	p.changed()
	p.mu.Unlock()
	if s == nil {
		return false
	}
	if errors.Is(reason, errConfirmTimeout) {
		s.conn.abort()
	} else {
		s.conn.close()
	}
	// A Publish that was in the session reads its message no more after this. No
	// other can follow it into the session.
	p.writing.Lock()
	p.writing.Unlock() //nolint:staticcheck // waiting is all
	p.mu.Lock()
	p.giveUp(s, reason, blamed, exception)
	p.mu.Unlock()
	s.tell()
	return blamed
}

// giveUp turns all that is unanswered into answers. The caller holds p.mu.
func (p *Publisher) giveUp(s *session, reason error, blamed bool, exception *amqp.Error) {
	err := outbox.Unavailable(reason)
	single := s.window.len() == 1
	if blamed {
		s.answered = true
		err = outbox.Unavailable(fmt.Errorf("%w: %w", ErrReplay, reason))
		if single {
			err = culpritError(exception)
		}
	}
	for s.window.len() > 0 {
		m := s.window.take()
		switch {
		case blamed && single:
			p.suspects.answered(m.id)
		case blamed:
			p.suspects.add(m.id)
		}
		s.answers = append(s.answers, answer{m.done, err})
	}
}
