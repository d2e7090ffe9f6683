package stomp

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// ErrReplay is wrapped, together with [outbox.ErrUnavailable], by the answer to
// messages that were unanswered when the broker ended the connection because of one
// of them, without saying which. Send them again: the publisher takes one at a time
// until each of them has been answered, so that the culprit alone is refused.
var ErrReplay = errors.New("replay one by one: the broker ended the connection because of one of these messages")

var (
	errClosed         = errors.New("stomp: publisher is closed")
	errConnecting     = errors.New("stomp: not connected yet")
	errReceiptTimeout = errors.New("stomp: the broker did not confirm in time")
	errUnknownReceipt = errors.New("stomp: the broker sent a receipt that was not asked for")
	errWordless       = outbox.Refused(errors.New("stomp: the broker ended the connection each time that it got this message, " +
		"and did not say why: is a queue full that has the overflow behaviour reject-publish, or the message above the limit of a frame?"))
)

// blames reports whether the broker ended the connection because of a message that
// was sent, some of which to destinations of their own if own says so. named is what the
// configuration names: if that is missing, or may not be written to, or is declared with
// other properties, every message would meet with it.
func blames(e *stomp.ServerError, named string, own bool) bool {
	switch e.Message {
	case "connection_forced", "internal_error", "resource_error", "not_allowed", "AMQP connection died", "AMQP channel died":
		return false
	case "Invalid destination", "Unknown destination":
		return own
	case "not_found", "access_refused", "precondition_failed":
		return named == "" || !strings.Contains(e.Body, named) || strings.Contains(e.Body, "access to topic")
	}
	return !e.Handshake
}

// culpritError is the answer to the only message that can be to blame for e.
func culpritError(e *stomp.ServerError) error {
	err := fmt.Errorf("stomp: the broker ended the connection because of the message: %w", e)
	_, large := sizeLimit(e)
	if large || e.Message == "Invalid destination" || e.Message == "Unknown destination" {
		return outbox.Invalid(err)
	}
	return outbox.Refused(err)
}

// sizeLimit returns RabbitMQ's max_message_size, if e tells it.
func sizeLimit(e *stomp.ServerError) (int, bool) {
	_, text, ok := strings.Cut(e.Body, "message size ")
	if !ok {
		return 0, false
	}
	var size, limit int
	if _, err := fmt.Sscanf(text, "%d is larger than configured max size %d", &size, &limit); err != nil {
		return 0, false
	}
	return limit, true
}

// byPeer reports whether the other side has ended the connection without a word. It
// may have gone down; but RabbitMQ also answers a message so that a queue has
// refused (basic.nack), since its plugin has no answer for that.
func byPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// suspects are the messages one of which made the broker end the connection. While
// there are any the publisher takes one message at a time.
type suspects struct {
	ids map[string]struct{}
	// patience is how many more answers are waited for: those who publish may have
	// lost some of the suspects to another relay.
	patience int
	// witnesses were unanswered when the last connection ended without a word.
	witnesses map[string]struct{}
	// witnessed are the suspects of which nothing else is known.
	witnessed map[string]struct{}
}

func (s *suspects) any() bool { return len(s.ids) > 0 }

func (s *suspects) has(id string) bool {
	_, ok := s.ids[id]
	return ok
}

func (s *suspects) add(id string) {
	if s.ids == nil {
		s.ids = make(map[string]struct{})
	}
	s.ids[id] = struct{}{}
	s.patience = 4 * len(s.ids)
}

// witness notes which messages were unanswered at an end without a word. Those to
// which that happens for the second time in a row are suspects.
func (s *suspects) witness(unanswered []pending) {
	before := s.witnesses
	s.witnesses = make(map[string]struct{}, len(unanswered))
	for _, m := range unanswered {
		if _, again := before[m.id]; again {
			if s.witnessed == nil {
				s.witnessed = make(map[string]struct{})
			}
			if !s.has(m.id) {
				s.witnessed[m.id] = struct{}{}
			}
			s.add(m.id)
		}
		s.witnesses[m.id] = struct{}{}
	}
}

// down notes that the broker cannot be connected to. It was not a message that ended the
// connection then.
func (s *suspects) down() {
	clear(s.witnesses)
	for id := range s.witnessed {
		delete(s.ids, id)
	}
	clear(s.witnessed)
}

// answered notes that the broker has answered the message.
func (s *suspects) answered(id string) {
	if len(s.witnesses) > 0 {
		delete(s.witnesses, id)
	}
	if !s.any() {
		return
	}
	delete(s.ids, id)
	delete(s.witnessed, id)
	if s.patience--; s.patience <= 0 {
		clear(s.ids)
		clear(s.witnessed)
	}
}
