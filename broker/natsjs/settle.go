package natsjs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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

var errSettled = errors.New("natsjs: the message was settled before")

// settle is Received.Settle.
func (c *consumption) settle(d *delivery, how outbox.Settlement) error {
	if err := how.Validate(&c.sub); err != nil {
		return fmt.Errorf("natsjs: %w", err)
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

// release settles a message with one word to the server: what cannot be sent is
// owed, and the next connection begins with it.
func (c *consumption) release(d *delivery, what []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.settleable(d); err != nil {
		return err
	}
	full := len(c.unsettled) >= c.sub.Prefetch
	delete(c.unsettled, d)
	if c.publish(d, what) != nil {
		c.owed[d] = what
	} else if what[0] == ack[0] {
		c.forget(c.link, d)
	}
	c.request()
	if full || c.ending { // else nobody waits for it
		c.signal()
	}
	return nil
}

// repay sends what is owed and waits until the server knows, before it is asked
// for messages: else it might deliver these once more.
func (c *consumption) repay(ctx context.Context, l *link) error {
	inbox := l.conn.NewInbox() + "."
	c.mu.Lock()
	debts := slices.SortedFunc(maps.Keys(c.owed), func(a, b *delivery) int { return cmp.Compare(a.sequence, b.sequence) })
	msgs := make([]*nats.Msg, len(debts))
	for i, d := range debts {
		msgs[i] = &nats.Msg{Subject: d.reply, Reply: inbox + strconv.Itoa(i), Data: c.owed[d]}
	}
	c.mu.Unlock()
	answers := make(chan *nats.Msg, len(msgs))
	sub, err := l.conn.ChanSubscribe(inbox+"*", answers)
	if err != nil {
		return unavailable("settle", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails if the connection has ended
	for _, msg := range msgs {
		if err := l.conn.PublishMsg(msg); err != nil {
			return unavailable("settle", err)
		}
	}
	if err := c.awaitAnswers(ctx, l, answers, len(msgs)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range debts {
		if what, ok := c.owed[d]; ok && what[0] == ack[0] {
			c.forget(l, d)
		}
		delete(c.owed, d)
	}
	c.signal()
	return nil
}

// awaitAnswers waits for the answers to n settlements. What the server does not
// answer in time it has forgotten to have delivered, and delivers again.
func (c *consumption) awaitAnswers(ctx context.Context, l *link, answers <-chan *nats.Msg, n int) error {
	timer := time.NewTimer(c.broker.config.ConnectTimeout)
	defer timer.Stop()
	for ; n > 0; n-- {
		select {
		case answer := <-answers:
			if answer.Header.Get("Status") == "503" {
				return errNoStream
			}
		case <-timer.C:
			c.log.Warn("settlements not confirmed: their messages may come again", "messages", n)
			return nil
		case <-l.conn.lost:
			return errLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
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
