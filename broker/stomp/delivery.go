package stomp

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// delivery is a connection that consumes, from its opening to its end.
type delivery struct {
	conn     *stomp.Conn
	acks     *acks
	inOrder  bool
	opened   time.Time
	received bool // a message has come

	early    []*stomp.Frame // what came while it was opened
	messages chan *item     // those of the queue, in their order
	slots    chan struct{}  // has one for each that is passed on and unsettled
	quit     chan struct{}  // closed when nobody takes messages any more
	ended    chan struct{}  // closed when what it delivered cannot be settled any more
	err      error          // why; valid after ended
	count    uint64         // of the messages delivered; belongs to the reader

	mu       sync.Mutex
	keeps    bool          // what is requeued is kept until the connection ends
	again    []*item       // requeued, to be passed on before all else, in their order
	returned chan struct{} // there is something in again
}

// item is a message that the broker has delivered.
type item struct {
	frame  *stomp.Frame
	number uint64 // in the order of their deliveries
	again  bool   // it was passed on before
}

var errStale = errors.New("stomp: the connection that delivered the message is lost: it is delivered again")

// deliver subscribes by conn, which it closes if that fails.
func (c *consumer) deliver(ctx context.Context, conn *stomp.Conn) (*delivery, error) {
	d := &delivery{
		conn: conn, acks: newAcks(conn, c.sub.Prefetch), inOrder: c.sub.InOrder, opened: time.Now(),
		messages: make(chan *item, c.sub.Prefetch+1+len(c.sub.Topics)), slots: make(chan struct{}, c.sub.Prefetch), quit: make(chan struct{}), ended: make(chan struct{}),
		returned: make(chan struct{}, 1),
	}
	defer c.guard(ctx, conn)()
	if err := c.await(d, c.subscriptions()...); err != nil {
		_ = conn.Close()
		return nil, c.declareError(err)
	}
	return d, nil
}

// await sends frames and reads until the last of them has its receipt.
func (c *consumer) await(d *delivery, frames ...*stomp.Frame) error {
	for _, f := range frames {
		if err := d.conn.Write(f); err != nil {
			return err
		}
	}
	if err := d.conn.Flush(); err != nil {
		return err
	}
	last, _ := frames[len(frames)-1].Get(headerReceipt)
	for {
		f, err := d.conn.Read()
		if err != nil {
			return err
		}
		id, _ := f.Get(headerReceiptID)
		switch {
		case f.Command == stomp.Message:
			d.early = append(d.early, f)
		case id == last:
			return nil
		}
	}
}

// subscriptions returns the SUBSCRIBE frames of the queue and of what waits for it.
//
// In order the connection that receives binds the queue, too. What comes by a binding is
// the queue's next message, and the only one: see [delivery.dispatch]. So those of the
// bindings are before those of the queue itself, and when the connection ends a quorum
// queue takes them back in the order of the subscriptions' names.
func (c *consumer) subscriptions() []*stomp.Frame {
	if c.sub.DeadLetters {
		return []*stomp.Frame{subscribe(mainID, queuePath(deadLetterQueue(c.queue)), c.sub.Prefetch, c.config.deadLetterHeaders(c.queue))}
	}
	var frames []*stomp.Frame
	for _, t := range tiers {
		frames = append(frames, subscribe(t.name, queuePath(t.queue(c.queue)), tierPrefetch, c.config.queueHeaders(c.queue)))
	}
	destination := plainQueuePath(c.queue) // were it declared here, it would not be bound
	switch {
	case c.config.Exclusive:
		destination = c.config.destination(c.queue, c.sub.Topics[0])
	case c.sub.InOrder:
		// The first deletes nothing if the queue cannot be received from.
		frames = append(frames, subscribe(bindPrefix, queuePath(c.queue), 1, c.config.mainHeaders(c.queue)))
		frames = append(frames, c.bindings()...)
		frames = append(frames, lock(boundID, c.boundQueue()))
	}
	return append(frames, subscribe(mainID, destination, c.sub.Prefetch, c.config.mainHeaders(c.queue)))
}

// read passes on what the broker delivers, until the connection ends.
func (d *delivery) read(w *waiter) {
	defer close(d.ended)
	for _, f := range d.early {
		d.dispatch(f, w)
	}
	d.early = nil
	for {
		f, err := d.conn.Read()
		if err != nil {
			d.err = err
			return
		}
		if f.Command == stomp.Message {
			d.dispatch(f, w)
		}
	}
}

// dispatch passes on what a subscription has got. One that binds the queue has done its
// work, and ends when it has got the one message that it may have unacknowledged: when
// none has come RabbitMQ may be about to deliver it, and knows the subscription no more.
func (d *delivery) dispatch(f *stomp.Frame, w *waiter) {
	id, _ := f.Get(headerSubscription)
	switch {
	case strings.HasPrefix(id, bindPrefix):
		_ = d.acks.unsubscribe(id) // the reader finds out
	case id != mainID:
		w.add(f, id)
		return
	}
	d.count++
	select {
	case d.messages <- &item{frame: f, number: d.count}:
	case <-d.quit:
	}
}

// next returns the next message, nil if ctx has ended.
func (d *delivery) next(ctx context.Context) (*item, error) {
	for {
		var m *item
		select {
		case <-d.ended:
			return nil, d.err
		case <-ctx.Done():
			return nil, nil
		case <-d.returned:
			m = d.takeReturned()
		case m = <-d.messages:
			m = d.exchange(m)
		}
		// Any of them may have been ready at once.
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case isClosed(d.ended):
			return nil, d.err
		case m != nil:
			return m, nil
		}
	}
}

// takeReturned returns the oldest of what was requeued, or nil.
func (d *delivery) takeReturned() *item {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.again) == 0 {
		return nil
	}
	m := d.again[0]
	d.again = d.again[1:]
	d.signal()
	return m
}

// exchange returns what is to be passed on before m, and keeps m for later, or m.
func (d *delivery) exchange(m *item) *item {
	d.mu.Lock()
	waiting := len(d.again) > 0
	d.mu.Unlock()
	if !waiting {
		return m
	}
	d.putBack(m)
	return d.takeReturned()
}

// putBack has m passed on once more, before what is behind it.
func (d *delivery) putBack(m *item) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, _ := slices.BinarySearchFunc(d.again, m.number, func(have *item, number uint64) int {
		if have.number < number {
			return -1
		}
		return 1
	})
	d.again = slices.Insert(d.again, at, m)
	d.signal()
}

// signal tells next that there is something in again. The caller holds d.mu.
func (d *delivery) signal() {
	if len(d.again) == 0 {
		return
	}
	select {
	case d.returned <- struct{}{}:
	default:
	}
}

// requeue gives m back: in order to this member once more, which is the only one that
// receives and keeps the message's place; else to the queue.
func (d *delivery) requeue(m *item) error {
	d.mu.Lock()
	keeps := d.keeps
	d.mu.Unlock()
	switch {
	case isClosed(d.ended) || d.conn.Err() != nil:
		return errStale
	case keeps:
		return nil
	case d.inOrder:
		d.putBack(&item{frame: m.frame, number: m.number, again: true})
		return nil
	}
	return d.acks.nack(m.ackID())
}

func (d *delivery) keep() {
	d.mu.Lock()
	d.keeps = true
	d.mu.Unlock()
}

// part ends the connection in order: the broker has all acknowledgements, and takes
// the rest back.
func (d *delivery) part() {
	close(d.quit)
	part(d.conn)
}

func (d *delivery) close() { _ = d.conn.Close() }

// ackID returns by what the broker knows the delivery. RabbitMQ counts deliveries by
// connection, and looks for no more than whether the subscription that is named with the
// number is there. That of a binding is not, so it is another one that is named.
func (m *item) ackID() string {
	id, _ := m.frame.Get(headerAck)
	if by, _ := m.frame.Get(headerSubscription); strings.HasPrefix(by, bindPrefix) {
		return strings.Replace(id, by, mainID, 1)
	}
	return id
}
