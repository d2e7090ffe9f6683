package rabbitmq

import (
	"errors"
	"fmt"
	"strings"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrReplay is wrapped, together with [outbox.ErrUnavailable], by the answer to
// messages that were unanswered when the broker closed the channel because of one
// of them, without saying which. Send them again: the publisher takes one at a
// time until each of them has been answered, so that the culprit alone is refused.
var ErrReplay = errors.New("replay one by one: the broker closed the channel because of one of these messages")

var (
	errClosed         = errors.New("rabbitmq: publisher is closed")
	errConnecting     = errors.New("rabbitmq: not connected yet")
	errConfirmTimeout = errors.New("rabbitmq: the broker did not confirm in time")
	errUnknownReturn  = errors.New("rabbitmq: the broker returned a message that was not published")
	errUnknownConfirm = errors.New("rabbitmq: the broker confirmed what was not published")
	errBlocked        = errors.New("rabbitmq: the broker blocks publishers because of a memory or disk alarm")
	errLost           = errors.New("rabbitmq: connection lost")
)

// blames reports whether the broker closed the channel, or the connection, because
// of a message. See https://www.rabbitmq.com/docs/channels#error-handling. A
// missing exchange or right is the configuration's fault, and every message would
// meet with it.
func blames(e *amqp.Error) bool {
	if !e.Server {
		return false
	}
	switch e.Code {
	case amqp.NotFound, amqp.ConnectionForced, amqp.InternalError, amqp.ResourceError, amqp.NotAllowed:
		return false
	case amqp.AccessRefused:
		return strings.Contains(e.Reason, "topic") // rights on topics differ by message
	}
	return true
}

// culpritError is the answer to the only message that can be to blame for e.
func culpritError(e *amqp.Error) error {
	err := fmt.Errorf("rabbitmq: the broker closed the channel because of the message: %w", e)
	if _, ok := sizeLimit(e); ok || e.Code == amqp.ContentTooLarge {
		return outbox.Invalid(err)
	}
	return outbox.Refused(err)
}

// sizeLimit returns the broker's max_message_size, if e tells it.
func sizeLimit(e *amqp.Error) (int, bool) {
	_, text, ok := strings.Cut(e.Reason, "message size ")
	if !ok {
		return 0, false
	}
	var size, limit int
	if _, err := fmt.Sscanf(text, "%d is larger than configured max size %d", &size, &limit); err != nil {
		return 0, false
	}
	return limit, true
}

// suspects are the messages one of which made the broker close the channel. While
// there are any the publisher takes one message at a time.
type suspects struct {
	ids map[string]struct{}
	// patience is how many more answers are waited for: those who publish may have
	// lost some of the suspects to another relay.
	patience int
}

func (s *suspects) any() bool { return len(s.ids) > 0 }

func (s *suspects) add(id string) {
	if s.ids == nil {
		s.ids = make(map[string]struct{})
	}
	s.ids[id] = struct{}{}
	s.patience = 4 * len(s.ids)
}

// answered notes that the broker has answered the message.
func (s *suspects) answered(id string) {
	if !s.any() {
		return
	}
	delete(s.ids, id)
	if s.patience--; s.patience <= 0 {
		clear(s.ids)
	}
}
