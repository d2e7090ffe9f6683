package stomp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

const (
	// busy is from how many unanswered messages on Flush waits for more of them: the
	// answers come in bursts, and a system call and a packet for each message that
	// takes the place of an answered one cost us and the broker more than the message.
	busy = 64
	// flushDelay is how long it waits. The broker works on the others meanwhile.
	flushDelay = 500 * time.Microsecond
)

// session is a connection that publishes, from its opening to its end.
type session struct {
	conn     *stomp.Conn
	window   *window       // guarded by Publisher.mu
	flush    chan struct{} // there is something to be sent soon
	opened   time.Time
	answered bool // the broker has answered a message; belongs to the reader, then to run
}

// run connects and answers until ctx ends.
func (p *Publisher) run(ctx context.Context) {
	defer close(p.stopped)
	defer p.shut()
	log := p.config.Connection.Logger
	for attempt := 0; ; attempt++ {
		s, err := p.open(ctx)
		if err == nil {
			log.Info("publisher connected", "broker", p.endpoint.String())
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

func (p *Publisher) open(ctx context.Context) (*session, error) {
	conn, err := p.endpoint.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("stomp: %w", err)
	}
	return &session{conn: conn, window: newWindow(), flush: make(chan struct{}, 1), opened: time.Now()}, nil
}

// serve lets messages in and answers them until the session ends, for the reason
// that it returns. Nothing is read from the connection any more then.
func (p *Publisher) serve(ctx context.Context, s *session) error {
	p.mu.Lock()
	p.session, p.connecting = s, false
	p.changed()
	p.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- p.read(s) }()
	stop := make(chan struct{})
	var flushing sync.WaitGroup
	flushing.Go(func() { s.flushSoon(stop) })
	defer flushing.Wait()
	defer func() { _ = s.conn.Close() }() // it may be writing
	defer close(stop)
	ticker := time.NewTicker(max(p.config.ReceiptTimeout/8, time.Millisecond))
	defer ticker.Stop()
	var reason error
	for reason == nil {
		select {
		case err := <-ended:
			return err
		case <-ticker.C:
			if p.overdue(s) {
				reason = errReceiptTimeout
			}
		case <-ctx.Done():
			reason = errClosed
		}
	}
	_ = s.conn.Close()
	<-ended //nolint:errcheck // it has ended because it was closed
	return reason
}

// flushSoon sends what waits for more, until stop is closed.
func (s *session) flushSoon(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-s.flush:
		case <-stop:
			return
		}
		timer.Reset(flushDelay)
		select {
		case <-timer.C:
			_ = s.conn.Flush() // the reader finds out
		case <-stop:
			return
		}
	}
}

// read answers messages until the connection ends.
func (p *Publisher) read(s *session) error {
	for {
		f, err := s.conn.Read()
		if err != nil {
			return fmt.Errorf("stomp: %w", err)
		}
		if f.Command != stomp.Receipt {
			continue // there are no subscriptions
		}
		id, _ := f.Get(headerReceiptID)
		number, err := strconv.ParseUint(id, 10, 64)
		if err != nil || !p.received(s, number) {
			return errUnknownReceipt
		}
		s.answered = true
	}
}

// received answers the message of a receipt, and reports whether there is one.
func (p *Publisher) received(s *session, number uint64) bool {
	p.mu.Lock()
	m, ok := s.window.take(number)
	if ok {
		p.suspects.answered(m.id)
		p.changed()
	}
	p.mu.Unlock()
	if ok {
		m.done(nil)
	}
	return ok
}

func (p *Publisher) overdue(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent, any := s.window.oldest()
	return any && time.Since(sent) > p.config.ReceiptTimeout
}

// lose ends s, which is nil if it could not be opened, and answers what it leaves.
// It reports whether the broker blames a message for the end.
func (p *Publisher) lose(s *session, reason error) bool {
	var exception *stomp.ServerError
	p.mu.Lock()
	blamed := s != nil && s.window.len() > 0 && errors.As(reason, &exception) && blames(exception, p.encoder.template.named(), s.window.anyOwn())
	p.session, p.connecting, p.down = nil, blamed, reason
	if !blamed {
		p.maxPayload = 0 // it may be another broker that comes back
	} else if limit, ok := sizeLimit(exception); ok {
		p.maxPayload = limit
	}
	if s == nil {
		p.suspects.down()
	}
	p.changed()
	p.mu.Unlock()
	if s == nil {
		return false
	}
	_ = s.conn.Close()
	// A Publish that was in the session reads its message no more after this. No
	// other can follow it into the session.
	p.writing.Lock()
	p.writing.Unlock() //nolint:staticcheck // waiting is all
	p.mu.Lock()
	unanswered := s.window.drain()
	err := p.verdict(unanswered, reason, blamed, exception)
	p.mu.Unlock()
	if blamed {
		s.answered = true
	}
	for _, m := range unanswered {
		m.done(err)
	}
	return blamed
}

// verdict returns the answer to what was unanswered at the end of a session, and
// notes who may be to blame for it. The caller holds p.mu.
func (p *Publisher) verdict(unanswered []pending, reason error, blamed bool, exception *stomp.ServerError) error {
	alone := len(unanswered) == 1
	switch {
	case blamed && alone:
		p.suspects.answered(unanswered[0].id)
		return culpritError(exception)
	case blamed:
		for _, m := range unanswered {
			p.suspects.add(m.id)
		}
		return outbox.Unavailable(fmt.Errorf("%w: %w", ErrReplay, reason))
	case !byPeer(reason):
	case alone && p.suspects.has(unanswered[0].id):
		p.suspects.answered(unanswered[0].id)
		return errWordless
	default:
		p.suspects.witness(unanswered)
	}
	return outbox.Unavailable(reason)
}
