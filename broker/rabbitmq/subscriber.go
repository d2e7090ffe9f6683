package rabbitmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outbox-go/outbox"
)

var _ outbox.Subscriber = (*Subscriber)(nil)

// maxPrefetch is what basic.qos can express.
const maxPrefetch = 1<<16 - 1

var errSubscriberClosed = errors.New("rabbitmq: subscriber is closed")

// Subscriber is an [outbox.Subscriber] with manual acknowledgements
// (https://www.rabbitmq.com/docs/confirms#consumer-acknowledgements). It is safe
// for concurrent use; each Subscribe has a connection of its own.
type Subscriber struct {
	url    string
	config SubscriberConfig

	mu      sync.Mutex
	closed  chan struct{}
	stops   map[*consumer]context.CancelFunc // one for each running Subscribe
	running sync.WaitGroup
}

// NewSubscriber returns a subscriber to the broker at url, or to the first of
// several hosts that answers. config may be nil. It does not connect yet; the error
// is about url and config only, and names every fault.
func NewSubscriber(url string, config *SubscriberConfig) (*Subscriber, error) {
	c := config.withDefaults()
	if _, err := newEndpoint(url, c.Connection, c.validate()); err != nil {
		return nil, err
	}
	return &Subscriber{url: url, config: c, closed: make(chan struct{}), stops: make(map[*consumer]context.CancelFunc)}, nil
}

// Subscribe implements [outbox.Subscriber]. It declares what the package's comment
// lists, unless the configuration says CheckOnly. Bindings of the queue by other
// patterns remain: AMQP cannot list them.
//
// It returns an error for what connecting again cannot mend, by none of several
// hosts: wrong credentials, a virtual host that is not there, an untrusted
// certificate, an exchange or a queue that has other properties or may not be
// declared or read; with CheckOnly, also [ErrMissing] if any is not there at the
// first time. All else is retried, with back-off. When the broker cancels the
// consumer, because the queue was deleted for example, Subscribe declares and
// subscribes again.
//
// Acknowledgements are sent together with others: at once when a quarter of Prefetch
// waits, else after 1 or 2 ms, and all before Subscribe returns. Settle returns an
// error when the connection that delivered the message is lost, and when it is
// called again. A nil error for Ack or Requeue does not prove that the broker has
// processed it: AMQP does not confirm it. For Retry and DeadLetter it does prove
// that the broker has the copy. They wait for that, for the ConfirmTimeout at most.
// The payload of the copy is the one that was received: nobody may change it before.
//
// After ctx has ended, messages that were not passed on are requeued, which a quorum
// queue counts as a delivery. A member of a queue in order keeps them until it
// returns, so that no other member begins before.
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	if err := sub.Validate(); err != nil {
		return err
	}
	if sub.Prefetch > maxPrefetch {
		return fmt.Errorf("rabbitmq: subscription: Prefetch is %d, AMQP allows at most %d", sub.Prefetch, maxPrefetch)
	}
	conn := s.config.Connection
	conn.Name = cmp.Or(conn.Name, "outbox-subscriber "+sub.Queue)
	e, err := newEndpoint(s.url, conn, nil)
	if err != nil {
		return err
	}
	c := &consumer{
		endpoint: e, config: &s.config, sub: sub, queue: queueName(sub.Queue), ready: ready, receive: receive, closed: s.closed,
		ladder: newLadder(&sub, s.config.Topology), copier: newCopier(e, &s.config, s.closed),
	}
	defer c.copier.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !s.begin(c, stop) {
		return errSubscriberClosed
	}
	defer s.end(c)
	return c.run(ctx)
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
