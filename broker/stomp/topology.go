package stomp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// queueHeaders returns the headers by which a frame declares a durable queue. What waits
// for a retry has the queue itself as that of its dead letters: a quorum queue with a
// delivery limit gives up what was given back so often, as at each end of a member, and
// to come early is better than to be lost.
func (c *SubscriberConfig) queueHeaders(deadLetterKey string) []stomp.Header {
	h := []stomp.Header{{Name: headerDurable, Value: "true"}, {Name: headerAutoDelete, Value: "false"}}
	if c.QueueType != "" {
		h = append(h, stomp.Header{Name: headerQueueType, Value: string(c.QueueType)})
	}
	if deadLetterKey != "" {
		h = append(h, stomp.Header{Name: headerDeadLetterExchange}, stomp.Header{Name: headerDeadLetterKey, Value: deadLetterKey})
	}
	return h
}

// ownHeaders returns the queue headers that the user gives.
func (c *SubscriberConfig) ownHeaders() []stomp.Header {
	var h []stomp.Header
	for _, name := range slices.Sorted(maps.Keys(c.QueueHeaders)) {
		h = append(h, stomp.Header{Name: name, Value: c.QueueHeaders[name]})
	}
	return h
}

// mainHeaders returns those of the queue itself.
func (c *SubscriberConfig) mainHeaders(queue string) []stomp.Header {
	h := append(c.queueHeaders(deadLetterQueue(queue)), c.ownHeaders()...)
	if c.Exclusive {
		h = append(h, stomp.Header{Name: headerExclusive, Value: "true"})
	}
	return append(h, stomp.Header{Name: headerQueueName, Value: queue})
}

// deadLetterHeaders returns those of the queue of the dead letters. With DOP they
// have dead letters in their turn, by a queue that nobody declares.
func (c *SubscriberConfig) deadLetterHeaders(queue string) []stomp.Header {
	if !c.DOP {
		return c.queueHeaders("")
	}
	key := deadLetterPrefix + deadLetterPrefix + deadLetterQueue(queue)
	return append(c.queueHeaders(key), c.ownHeaders()...)
}

// destination returns what the queue subscribes to for a pattern.
func (c *SubscriberConfig) destination(queue, pattern string) string {
	if c.Destination == queueDestination {
		return queuePath(queue)
	}
	t := newTemplate(c.Destination)
	return t.destination(pattern)
}

// Identifiers of subscriptions. Those of the tiers are their names.
const (
	mainID     = "main"
	bindPrefix = "bind-" // of those that bind the queue
	orderID    = "order"
	boundID    = "bound"
)

// subscribe returns a SUBSCRIBE frame that asks for a receipt by its own id.
func subscribe(id, destination string, prefetch int, headers []stomp.Header) *stomp.Frame {
	f := &stomp.Frame{Command: stomp.Subscribe, Headers: []stomp.Header{
		{Name: headerID, Value: id},
		{Name: headerReceipt, Value: id},
		{Name: headerDestination, Value: destination},
		{Name: headerAck, Value: "client-individual"},
		{Name: headerPrefetch, Value: strconv.Itoa(prefetch)},
	}}
	f.Headers = append(f.Headers, headers...)
	return f
}

// setup makes the queue of the dead letters and, unless the subscription does that, the
// queue itself, and binds that by all topics. It does so for each connection: somebody
// may have deleted the exchange meanwhile, and with it the bindings. It has connections
// of its own, which it closes: what they were handed meanwhile goes back to its place.
// The one that sends has nothing to give back: a broker that is short of memory does not
// notice its end.
func (c *consumer) setup(ctx context.Context) error {
	groups := [][]*stomp.Frame{c.probes()}
	if !c.bindsItself() {
		groups = append(groups, c.bindings())
	}
	if err := c.converse(ctx, groups...); err != nil {
		return err
	}
	return c.converse(ctx, c.declaration())
}

// converse opens a connection, sends frames, each group when that before it has
// succeeded, and ends the connection in order.
func (c *consumer) converse(ctx context.Context, groups ...[]*stomp.Frame) error {
	conn, err := c.endpoint.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer c.guard(ctx, conn)()
	for _, frames := range groups {
		if err := ask(conn, frames); err != nil {
			return c.declareError(err)
		}
	}
	// Until the broker has closed the connection it may hand it what comes meanwhile.
	var parting sync.WaitGroup
	parting.Go(func() { part(conn) })
	defer parting.Wait()
	for {
		if _, err := conn.Read(); err != nil {
			return nil
		}
	}
}

// ask sends frames and reads until the last of them has its receipt.
func ask(conn *stomp.Conn, frames []*stomp.Frame) error {
	if len(frames) == 0 {
		return nil
	}
	for _, f := range frames {
		if err := conn.Write(f); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	last, _ := frames[len(frames)-1].Get(headerReceipt)
	for {
		f, err := conn.Read()
		if err != nil {
			return err
		}
		if id, _ := f.Get(headerReceiptID); f.Command == stomp.Receipt && id == last {
			return nil
		}
	}
}

// binds reports whether the queue is bound to anything.
func (c *consumer) binds() bool { return c.config.Destination != queueDestination }

// probes returns frames that must succeed before the queue is bound: RabbitMQ deletes a
// queue, whatever it has, if a subscription that would bind it fails. The exchange is
// not there, or may not be read: a queue that lives as long as the connection, which
// nobody misses, finds out. Or the queue cannot be received from yet, as a new quorum
// queue without a leader: to subscribe to it by its name deletes nothing.
func (c *consumer) probes() []*stomp.Frame {
	var frames []*stomp.Frame
	for i, pattern := range c.sub.Topics {
		if c.binds() {
			frames = append(frames, subscribe(fmt.Sprintf("probe-%03d", i), c.config.destination(c.queue, pattern), 1, nil))
		}
	}
	if !c.bindsItself() {
		frames = append(frames, subscribe("alone", queuePath(c.queue), 1, c.config.mainHeaders(c.queue)))
	}
	return frames
}

// bindings returns the frames that bind the queue. Each of them receives from it, too.
func (c *consumer) bindings() []*stomp.Frame {
	if !c.binds() {
		return nil
	}
	var frames []*stomp.Frame
	for i, pattern := range c.sub.Topics {
		frames = append(frames, subscribe(fmt.Sprintf("%s%03d", bindPrefix, i), c.config.destination(c.queue, pattern), 1, c.config.mainHeaders(c.queue)))
	}
	return frames
}

// declaration returns the frames that declare the queue of the dead letters. A queue is
// declared by a SEND to it, before the message; that is in a transaction which is
// aborted, so there never is a message. Nobody answers such a declaration: the next
// frame that RabbitMQ has to do something for does, a subscription to a queue that lives
// as long as the connection. All must go out in one write: a broker that is short of
// memory reads nothing behind a SEND but what came with it.
func (c *consumer) declaration() []*stomp.Frame {
	const transaction = "declare"
	in := stomp.Header{Name: headerTransaction, Value: transaction}
	frames := []*stomp.Frame{
		{Command: stomp.Begin, Headers: []stomp.Header{in}},
		{Command: stomp.Send, Headers: append([]stomp.Header{
			{Name: headerDestination, Value: queuePath(deadLetterQueue(c.queue))}, in,
		}, c.config.deadLetterHeaders(c.queue)...)},
		{Command: stomp.Abort, Headers: []stomp.Header{in, {Name: headerReceipt, Value: transaction}}},
	}
	if c.binds() {
		frames = append(frames, subscribe("answer", c.config.destination(c.queue, c.sub.Topics[0]), 1, nil))
	}
	return frames
}

// bindsItself reports whether the connection that receives binds the queue. Who else
// subscribes, for a moment, is handed messages, and a quorum queue puts what comes back
// behind what came back before: that is not the order of the queue if a member has left
// messages unsettled.
func (c *consumer) bindsItself() bool { return c.sub.InOrder || c.config.Exclusive }

// guard closes conn if ctx ends, or the broker takes too long to answer, before the
// function that it returns is called.
func (c *consumer) guard(ctx context.Context, conn *stomp.Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	timer := time.AfterFunc(c.config.ReceiptTimeout, func() { _ = conn.Close() })
	return func() {
		stop()
		timer.Stop()
	}
}

// declareError says what a refusal means and what mends it.
func (c *consumer) declareError(err error) error {
	var e *stomp.ServerError
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("subscribe: %w", err)
	case e.Message == "precondition_failed":
		return fmt.Errorf("declare queue: it is there with other properties: delete it, or configure those that it has: %w", err)
	case e.Message == "access_refused":
		return fmt.Errorf("declare queue: grant the rights to configure, write and read it, and to read the exchange: %w", err)
	case e.Message == "not_found" && strings.Contains(e.Body, "no exchange"):
		return fmt.Errorf("bind queue: the exchange of Destination is %w: create it: %w", ErrMissing, err)
	case e.Message == "resource_locked":
		return fmt.Errorf("%w: %w", errLocked, err)
	}
	return fmt.Errorf("subscribe: %w", err)
}

// ErrMissing is wrapped by the error of Subscribe that names an exchange which is not
// there. STOMP cannot create exchanges.
var ErrMissing = errors.New("missing on the broker")

// errLocked: another connection has the exclusive queue.
var errLocked = errors.New("another connection has the queue for itself")

// unmendable reports whether declaring again cannot help.
func unmendable(err error) bool {
	var e *stomp.ServerError
	return errors.As(err, &e) && (e.Message == "precondition_failed" || e.Message == "access_refused")
}
