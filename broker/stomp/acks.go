package stomp

import (
	"sync"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// ackDelay is how long an acknowledgement waits for others.
const ackDelay = time.Millisecond

// acks sends acknowledgements, several at once: a system call for each would cost
// more than the delivery.
type acks struct {
	conn *stomp.Conn
	most int           // as many are not held back
	wake chan struct{} // there is one to be sent in time

	mu     sync.Mutex
	frame  stomp.Frame
	unsent int
}

func newAcks(conn *stomp.Conn, prefetch int) *acks {
	// A quarter: the broker must not run out of messages that it may send.
	return &acks{conn: conn, most: max(1, prefetch/4), wake: make(chan struct{}, 1)}
}

// run sends what waits too long, and at the end all, until stop is closed.
func (a *acks) run(stop <-chan struct{}) {
	defer a.flush()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-a.wake:
		case <-stop:
			return
		}
		timer.Reset(ackDelay)
		select {
		case <-timer.C:
			a.flush()
		case <-stop:
			return
		}
	}
}

// ack acknowledges a delivery, soon.
func (a *acks) ack(id string) error {
	return a.send(stomp.Ack, stomp.Header{Name: headerID, Value: id})
}

// nack gives a delivery back to the queue, soon.
func (a *acks) nack(id string) error {
	return a.send(stomp.Nack, stomp.Header{Name: headerID, Value: id}, stomp.Header{Name: headerRequeue, Value: "true"})
}

// unsubscribe ends a subscription, soon. Nothing deletes its queue.
func (a *acks) unsubscribe(id string) error {
	return a.send(stomp.Unsubscribe, stomp.Header{Name: headerID, Value: id})
}

func (a *acks) send(command string, headers ...stomp.Header) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frame.Command, a.frame.Headers = command, append(a.frame.Headers[:0], headers...)
	if a.conn.Write(&a.frame) != nil {
		return errStale
	}
	a.unsent++
	if a.unsent >= a.most {
		return a.flushed()
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

func (a *acks) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.flushed() // the reader finds out
}

// flushed sends all. The caller holds a.mu.
func (a *acks) flushed() error {
	a.unsent = 0
	if a.conn.Flush() != nil {
		return errStale
	}
	return nil
}
