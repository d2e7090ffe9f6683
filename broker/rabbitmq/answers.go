package rabbitmq

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/outbox-go/outbox"
)

// answers takes the broker's answers to what a session has published, before the
// library gets them. The returns are left to the library, which has passed one on
// when it asks for the next frame: the broker sends a basic.return before the
// basic.ack of its message.
type answers struct {
	p *Publisher
	s *session
}

var errNack = outbox.Refused(errors.New("rabbitmq: the broker did not take the message (basic.nack): is a queue full?"))

// take implements [interceptor].
func (a *answers) take(f frame) bool {
	switch f.method() {
	case methodBasicReturn:
		a.p.returned(a.s)
	case methodConfirmSelect:
		a.s.route.channel = f.channel
	case methodChannelClose:
		if f.channel == a.s.route.channel {
			a.p.halt(a.s)
		}
	case methodBasicAck, methodBasicNack:
		if len(f.payload) < 13 {
			return false
		}
		tag, multiple := binary.BigEndian.Uint64(f.payload[4:]), f.payload[12]&1 != 0
		a.p.answered(a.s, tag, multiple, f.method() == methodBasicAck)
		return true
	}
	return false
}

// rest passes the answers on that have come together.
func (a *answers) rest() {
	tell(a.s.answers)
	clear(a.s.answers)
	a.s.answers = a.s.answers[:0]
}

func tell(answers []answer) {
	for _, a := range answers {
		a.done(a.err)
	}
}

// halt lets nothing more into s, and returns when nobody writes: the library is
// about to confirm that the channel is closed, behind which no message may follow.
func (p *Publisher) halt(s *session) {
	p.mu.Lock()
	s.over = true
	p.mu.Unlock()
	p.writing.Lock()
	p.writing.Unlock() //nolint:staticcheck // waiting is all
}

// returned makes room for another return: what the library cannot pass on holds it up
// for 5 s, and is dropped.
func (p *Publisher) returned(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.takeReturns(p.config.Exchange); err != nil {
		p.fail(s, err)
	}
}

// fail ends s, unless that is under way. The caller holds p.mu.
func (p *Publisher) fail(s *session, err error) {
	if !s.over {
		s.over = true
		s.failed <- err
	}
}

// answered notes what the broker has answered to the message of that tag, with
// multiple to all up to it.
func (p *Publisher) answered(s *session, tag uint64, multiple, ack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.over {
		return
	}
	err := s.takeReturns(p.config.Exchange)
	first, last, ok := s.window.answered(tag, multiple)
	if err == nil && !ok {
		err = errUnknownConfirm
	}
	if err != nil {
		p.fail(s, err)
		return
	}
	s.answered = true
	for tag := first; tag <= last; tag++ {
		if m, ok := s.window.take(tag); ok {
			p.suspects.answered(m.id)
			s.answers = append(s.answers, answer{m.done, m.verdict(ack)})
		}
	}
	p.changed()
}

// verdict returns what a message is told that the broker has answered.
func (m *pending) verdict(ack bool) error {
	if m.returned == nil && !ack {
		return errNack
	}
	return m.returned
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
