package stomp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// queueHeaders returns the headers by which a frame declares a durable queue.
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
	mainID  = "main"
	orderID = "order"
	boundID = "bound"
	probeID = "probe"
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

// setup makes the queue of the dead letters, and binds the queue by all topics but
// the first, by which the subscription itself binds it. It has a connection of its
// own, which it closes.
func (c *consumer) setup(ctx context.Context) error {
	conn, err := c.endpoint.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	last, frames := c.setupFrames()
	for _, f := range frames {
		if err := conn.Write(f); err != nil {
			return c.declareError(err)
		}
	}
	// All in one write: a broker that is short of memory reads nothing behind a SEND
	// but what came with it.
	if err := conn.Flush(); err != nil {
		return c.declareError(err)
	}
	defer c.guard(ctx, conn)()
	for {
		f, err := conn.Read()
		if err != nil {
			return c.declareError(err)
		}
		if id, _ := f.Get(headerReceiptID); f.Command == stomp.Receipt && id == last {
			return nil
		}
	}
}

// setupFrames returns the frames of setup, and the receipt of the last of them.
//
// A queue is declared by a SEND to it, before the message; that is in a transaction
// which is aborted, so there never is a message. Nobody answers such a declaration:
// the next frame that RabbitMQ has to do something for does. That is the probe, a
// queue that lives as long as the connection. It also finds out whether the exchange
// is there. Were it not, a subscription of the queue itself would end in RabbitMQ
// deleting the queue, whatever is in it.
func (c *consumer) setupFrames() (last string, frames []*stomp.Frame) {
	const transaction = "declare"
	in := stomp.Header{Name: headerTransaction, Value: transaction}
	send := &stomp.Frame{Command: stomp.Send, Headers: append([]stomp.Header{
		{Name: headerDestination, Value: queuePath(deadLetterQueue(c.queue))}, in,
	}, c.config.deadLetterHeaders(c.queue)...)}
	last = transaction
	frames = []*stomp.Frame{
		{Command: stomp.Begin, Headers: []stomp.Header{in}},
		send,
		{Command: stomp.Abort, Headers: []stomp.Header{in, {Name: headerReceipt, Value: transaction}}},
	}
	if c.config.Destination == queueDestination {
		return last, frames
	}
	last = probeID
	frames = append(frames, subscribe(probeID, c.config.destination(c.queue, c.sub.Topics[0]), 1, nil))
	for i, pattern := range c.sub.Topics[1:] {
		last = "bind-" + strconv.Itoa(i)
		frames = append(frames, subscribe(last, c.config.destination(c.queue, pattern), 1, c.config.mainHeaders(c.queue)))
	}
	return last, frames
}

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
