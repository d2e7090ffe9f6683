package stomp

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outbox-go/outbox"
)

var _ outbox.Subscriber = (*Subscriber)(nil)

// maxPrefetch is the greatest prefetch count of AMQP, which is behind RabbitMQ's
// STOMP.
const maxPrefetch = 1<<16 - 1

var errSubscriberClosed = errors.New("stomp: subscriber is closed")

// Subscriber is an [outbox.Subscriber] with the acknowledgement mode
// client-individual. It is safe for concurrent use; each Subscribe has connections of
// its own.
type Subscriber struct {
	endpoint *endpoint
	config   SubscriberConfig

	mu      sync.Mutex
	closed  chan struct{}
	stops   map[*consumer]context.CancelFunc // one for each running Subscribe
	running sync.WaitGroup
}

// NewSubscriber returns a subscriber to the broker at url; see [NewPublisher] for its
// form. config may be nil. It does not connect yet; the error is about url and config
// only, and names every fault.
func NewSubscriber(url string, config *SubscriberConfig) (*Subscriber, error) {
	c := config.withDefaults()
	e, err := newEndpoint(url, c.Connection, c.validate())
	if err != nil {
		return nil, err
	}
	return &Subscriber{endpoint: e, config: c, closed: make(chan struct{}), stops: make(map[*consumer]context.CancelFunc)}, nil
}

// Subscribe implements [outbox.Subscriber]. It declares what the package's comment
// lists. Bindings of the queue by other patterns remain: STOMP cannot take them away.
//
// It returns an error for what connecting again cannot mend: wrong credentials, an
// untrusted certificate, an exchange that is not there at the first time, a queue that
// has other properties or may not be declared or read. All else is retried, with
// back-off. When the broker cancels the subscription, because the queue was deleted
// for example, Subscribe declares and subscribes again.
//
// Acknowledgements are sent together with others: at once when a quarter of Prefetch
// waits, else after a millisecond, and all before Subscribe returns. Settle returns an
// error when the connection that delivered the message is lost, and when it is called
// again. A nil error for Ack or Requeue does not prove that the broker has processed
// it. For Retry and DeadLetter it does prove that the broker has the copy: they wait
// for its receipt, for the ReceiptTimeout at most. The payload of the copy is the one
// that was received: nobody may change it before.
//
// After ctx has ended, messages that were not passed on go back to the queue, and so
// does what is requeued, when Subscribe returns: a STOMP broker takes no
// acknowledgement any more when the subscription has ended.
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	if err := errors.Join(sub.Validate(), s.config.subscriptionFault(&sub)); err != nil {
		return err
	}
	c := newConsumer(s, sub, ready, receive)
	defer c.copier.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !s.begin(c, stop) {
		return errSubscriberClosed
	}
	defer s.end(c)
	return c.run(ctx)
}

// subscriptionFault tells what is wrong with s for this broker and configuration.
func (c *SubscriberConfig) subscriptionFault(s *outbox.Subscription) error {
	errs := []error{queueFault(s.Queue)}
	if s.Prefetch > maxPrefetch {
		errs = append(errs, fmt.Errorf("stomp: subscription: Prefetch is %d, at most %d are allowed", s.Prefetch, maxPrefetch))
	}
	if c.Exclusive && !s.DeadLetters {
		if len(s.Topics) > 1 {
			errs = append(errs, fmt.Errorf("stomp: subscription: Topics has %d patterns, an Exclusive queue is bound by one", len(s.Topics)))
		}
		if s.InOrder {
			errs = append(errs, errors.New("stomp: subscription: InOrder does not go with an Exclusive queue, which has one member anyway"))
		}
	}
	return errors.Join(errs...)
}

// Close ends each Subscribe with an error, and its connection; what is unsettled
// goes back to its queue. It waits until receive has returned, not for settlements.
// It must not be called by receive, and may be called more than once.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !isClosed(s.closed) {
		close(s.closed)
	}
	for _, stop := range s.stops {
		stop()
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

func (s *Subscriber) begin(c *consumer, stop context.CancelFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isClosed(s.closed) {
		return false
	}
	s.stops[c] = stop
	s.running.Add(1)
	return true
}

func (s *Subscriber) end(c *consumer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stops, c)
	s.running.Done()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
