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
	window        *window
	maxProperties int
	opened        time.Time
	route         route

	returns chan amqp.Return
	blocks  chan amqp.Blocking
	closed  chan *amqp.Error
	failed  chan error // the broker has said what makes no sense

	// Of what follows the publisher's mu holds the first two, the goroutine that reads
	// the answers.
	answered bool // the broker has answered a message
	over     bool // nothing is sent or answered any more
	answers  []answer
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
		}
		blamed := p.lose(s, err)
		if s != nil && (s.answered || time.Since(s.opened) > p.config.Connection.ReconnectMax) {
			attempt = 0
		}
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

func newSession(c *connection) *session {
	return &session{
		conn:    c,
		window:  newWindow(),
		returns: make(chan amqp.Return, 1), // see Publisher.returned
		blocks:  make(chan amqp.Blocking, 8),
		closed:  make(chan *amqp.Error, 1),
		failed:  make(chan error, 1),
	}
}

// open connects and makes the channel ready to publish.
func (p *Publisher) open(ctx context.Context) (*session, error) {
	var s *session
	err := p.endpoint.connect(ctx, func(c *connection) error {
		ch, err := c.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if err := exchangeEntity(p.config.Exchange, amqp.ExchangeTopic).ensure(ch, p.config.Topology); err != nil {
			return err
		}
		// One for each host: the library closes what it has been given.
		s = newSession(c)
		c.NotifyBlocked(s.blocks)
		ch.NotifyReturn(s.returns)
		ch.NotifyClose(s.closed)
		c.socket.intercept(&answers{p, s})
		if err := ch.Confirm(false); err != nil {
			return fmt.Errorf("confirm mode: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: %w", err)
	}
	s.maxProperties = maxProperties(s.conn.Config.FrameSize)
	s.route.exchange, s.route.mandatory = p.config.Exchange, p.config.Unroutable == Refuse
	s.route.frameSize = s.conn.Config.FrameSize
	s.opened = time.Now()
	return s, nil
}

// confirmRounds is how often the ConfirmTimeout is looked at while it passes.
const confirmRounds = 8

// serve lets messages in and answers them until the session ends, for the reason
// that it returns.
func (p *Publisher) serve(ctx context.Context, s *session) error {
	p.mu.Lock()
	p.session, p.connecting, p.blocked = s, false, false
	p.changed()
	p.mu.Unlock()
	ticker := time.NewTicker(max(p.config.ConfirmTimeout/confirmRounds, time.Microsecond))
	defer ticker.Stop()
	for {
		select {
		case err := <-s.closed:
			return closeReason(err)
		case err := <-s.failed:
			return err
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
	return s.window.age() > confirmRounds
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
	left := p.giveUp(s, reason, blamed, exception)
	p.mu.Unlock()
	s.conn.socket.settle()
	tell(left)
	return blamed
}

// giveUp turns all that is unanswered into answers. The caller holds p.mu.
func (p *Publisher) giveUp(s *session, reason error, blamed bool, exception *amqp.Error) []answer {
	s.over = true
	err := outbox.Unavailable(reason)
	single := s.window.len() == 1
	if blamed {
		s.answered = true
		err = outbox.Unavailable(fmt.Errorf("%w: %w", ErrReplay, reason))
		if single {
			err = culpritError(exception)
		}
	}
	var left []answer
	for s.window.len() > 0 {
		m, _ := s.window.take(s.window.head)
		switch {
		case blamed && single:
			p.suspects.answered(m.id)
		case blamed:
			p.suspects.add(m.id)
		}
		left = append(left, answer{m.done, err})
	}
	return left
}
