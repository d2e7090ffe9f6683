package natsjs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

// What is sent to a message's reply subject.
var (
	ack        = []byte("+ACK")
	nak        = []byte("-NAK")
	inProgress = []byte("+WPI")
)

// nakAfter is a nak that lets the message come again after a delay.
func nakAfter(delay time.Duration) []byte {
	if delay <= 0 {
		return nak
	}
	body, err := json.Marshal(struct {
		Delay time.Duration `json:"delay"`
	}{delay})
	if err != nil {
		panic(err) // numbers can always be encoded
	}
	return append([]byte("-NAK "), body...)
}

// maxDelay is the contract's limit.
const maxDelay = 24 * time.Hour

var errSettled = errors.New("natsjs: the message was settled before")

// checkSettlement tells what is wrong with a settlement.
func (c *consumption) checkSettlement(how outbox.Settlement) error {
	switch how.Outcome {
	case outbox.Ack, outbox.Requeue:
		return nil
	case outbox.Retry, outbox.DeadLetter:
	default:
		return fmt.Errorf("natsjs: settle: Outcome %d is unknown", how.Outcome)
	}
	switch {
	case c.sub.DeadLetters:
		return errors.New("natsjs: settle: a dead letter can be settled with Ack or Requeue only")
	case how.Failure == nil:
		return errors.New("natsjs: settle: Failure is required with Retry and DeadLetter")
	case how.Outcome == outbox.Retry && (how.Delay < 0 || how.Delay > maxDelay):
		return fmt.Errorf("natsjs: settle: Delay is %s: use 0 to %s", how.Delay, maxDelay)
	}
	return nil
}

// settle is Received.Settle.
func (c *consumption) settle(d *delivery, how outbox.Settlement) error {
	if err := c.checkSettlement(how); err != nil {
		return err
	}
	switch how.Outcome {
	case outbox.Retry:
		return c.claim(d, func(l *link) error { return c.retry(l, d, how) })
	case outbox.DeadLetter:
		return c.claim(d, func(l *link) error { return c.bury(l, d, how.Failure) })
	case outbox.Requeue:
		return c.release(d, nak)
	default:
		return c.release(d, ack)
	}
}

// release settles a message with one word to the server.
func (c *consumption) release(d *delivery, what []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.settleable(d); err != nil {
		return err
	}
	delete(c.unsettled, d)
	err := c.publish(d, what)
	if c.link != nil && what[0] == ack[0] {
		c.forget(c.link, d)
	}
	c.request()
	c.signal()
	return err
}

// settleable tells why d cannot be settled. The caller holds mu.
func (c *consumption) settleable(d *delivery) error {
	if c.abandoned {
		return errClosed
	}
	if _, ok := c.unsettled[d]; !ok || d.claimed {
		return errSettled
	}
	return nil
}

// claim settles a message by what takes several questions to the server, during
// which nobody else may settle it. If they fail it is as it was.
func (c *consumption) claim(d *delivery, by func(*link) error) error {
	c.mu.Lock()
	err := c.settleable(d)
	l := c.link
	if err == nil && l == nil {
		err = errConnecting
	}
	if err != nil {
		c.mu.Unlock()
		return err
	}
	d.claimed = true
	c.mu.Unlock()

	err = by(l)

	c.mu.Lock()
	defer c.mu.Unlock()
	d.claimed, d.released = false, false
	if err != nil {
		return err
	}
	delete(c.unsettled, d)
	c.request()
	c.signal()
	return nil
}

// retry keeps the failure before it gives the message back: without it an
// attempt would go uncounted.
func (c *consumption) retry(l *link, d *delivery, how outbox.Settlement) error {
	if !d.placed {
		return errors.New("natsjs: retry: the message has no place in a stream")
	}
	if err := c.broker.ask(l, c.entryFor(l, d, how.Delay, how.Failure)); err != nil {
		if errors.Is(err, errNoStream) && c.broker.config.Topology == Declare {
			l.fail(errNoBucket) // it is made again with the next connection
		}
		return fmt.Errorf("natsjs: keep the failure in bucket %s: %w", c.broker.bucket(), err)
	}
	return c.tell(l, d, nakAfter(how.Delay))
}

// bury publishes a copy before it acknowledges the message.
func (c *consumption) bury(l *link, d *delivery, f *outbox.Failure) error {
	copied := c.deadLetter(d, f)
	err := c.broker.ask(l, copied)
	if errors.Is(err, outbox.ErrInvalid) {
		shorten(copied) // the message alone is nearly as great as the server takes
		err = c.broker.ask(l, copied)
	}
	if err != nil {
		if errors.Is(err, errNoStream) && c.broker.config.Topology == Declare {
			l.fail(err) // it is made again with the next connection
		}
		return fmt.Errorf("natsjs: publish to stream %s: %w", c.broker.deadStream(), err)
	}
	if err := c.tell(l, d, ack); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(l, d)
	return nil
}

// ask publishes a message to a stream and waits until it is stored.
func (b *Broker) ask(l *link, msg *nats.Msg) error {
	answer, err := b.question(l, msg)
	if err != nil {
		return err
	}
	return classifyAnswer(answer)
}

// tell tells the server something about a message and waits until it knows. From
// here on there must be no sign of life: it would take the delay away.
func (c *consumption) tell(l *link, d *delivery, what []byte) error {
	c.mu.Lock()
	d.released = true
	msg := &nats.Msg{Subject: d.reply, Data: what}
	c.mu.Unlock()
	if _, err := c.broker.question(l, msg); err != nil {
		return fmt.Errorf("natsjs: settle: %w", err)
	}
	return nil
}

// question sends msg and waits for the answer.
func (b *Broker) question(l *link, msg *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.config.ConnectTimeout)
	defer cancel()
	answer, err := l.conn.RequestMsgWithContext(ctx, msg)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errNoStream
	case err != nil:
		return nil, classifySend(err)
	}
	return answer, nil
}

// forget deletes the entry of a message that is done with, without waiting: one
// that stays is gone when the message would be. The caller holds mu.
func (c *consumption) forget(l *link, d *delivery) {
	if d.entry == nil {
		return
	}
	body, err := json.Marshal(struct {
		Subject string `json:"filter"`
		Before  uint64 `json:"seq"` // leaves one that another delivery has put since
	}{c.keyOf(d.position), d.entry.revision + 1})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	_ = l.conn.Publish("$JS.API.STREAM.PURGE."+c.broker.bucketStream(), body)
}
